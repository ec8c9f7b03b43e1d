"""Stands for torch where it is not installed."""

import contextlib
import sys
import types

from rkd_jax.files.untrusted.tensors import STORAGES


@contextlib.contextmanager
def pretended_torch():
  """Just enough of torch's names for pickles that mention them."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  for kind in STORAGES:
    setattr(torch, kind, type(kind, (), {"__module__": "torch"}))

  def _rebuild_tensor_v2(*arguments):
    return arguments

  _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
    "torch._utils",
    "_rebuild_tensor_v2",
  )
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  torch._utils = utils
  sys.modules |= {"torch": torch, "torch._utils": utils}
  try:
    yield torch
  finally:
    del sys.modules["torch"], sys.modules["torch._utils"]
