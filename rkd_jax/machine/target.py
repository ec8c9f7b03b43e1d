"""What a program is compiled for while it is traced, and work in parts where that suits it.

Most forms for one platform are chosen when a program is lowered (`jax.lax.platform_dependent`).
Those that change what a gradient keeps are chosen when it is traced, where JAX does not say yet
for which devices; and the host's own say nothing of them: a CPU compiles for TPUs, too.
"""

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Target(NamedTuple):
  """`count` devices that share the work, of a platform such as "cpu", "gpu" or "tpu"."""

  platform: str
  count: int = 1


_target: ContextVar[Target | None] = ContextVar("target", default=None)


def compiled_for(function: Callable, target: Target) -> Callable:
  """The function, to be handed to `jax.jit` and traced for `target` whenever that traces it.

  What is traced belongs to the result, not to `function`: each target has its own.
  """

  @functools.wraps(function)
  def traced(*args, **kwargs):
    token = _target.set(target)
    try:
      return function(*args, **kwargs)
    finally:
      _target.reset(token)

  return traced


def current() -> Target:
  """The target of what is being traced; by default all devices of this process's backend."""
  return _target.get() or Target(jax.default_backend(), jax.device_count())


def in_parts_on_cpu(
  function: Callable[..., Any],
  variables: Any,
  arrays: tuple[jax.Array, ...],
  size: int,
  recompute: bool = False,
) -> Any:
  """`function(variables, *arrays)`, on a CPU in parts of at most `size` rows, one after the other.

  There the results within a part stay in the caches.  Elsewhere all rows are taken at once, which
  keeps an accelerator busy; and so they are by several devices, which share the rows as they are.

  Args:
    function: treats the rows of `arrays` one by one; so do the rows of its results stand for them.
    variables: differentiable, like `arrays`.
    arrays: of one length; a part is filled up with rows of zeros.
    size: rows of a part.
    recompute: whether the backward pass computes each part once more, where there are several,
      instead of holding what it needs of all of them.
  """
  count = arrays[0].shape[0]
  parts = -(-count // size)
  if parts <= 1 or not _single_cpu():
    return function(variables, *arrays)
  length = -(-count // parts)

  def split(x):
    x = jnp.pad(x, [(0, parts * length - count)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(parts, length, *x.shape[1:])

  if recompute:
    # Within a loop nothing could be merged with the first pass.
    function = jax.checkpoint(function, prevent_cse=False)
  results = jax.lax.map(lambda part: function(variables, *part), tuple(map(split, arrays)))
  return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:])[:count], results)


def _single_cpu() -> bool:
  """Whether one CPU device will do all the work."""
  return current() == Target("cpu")
