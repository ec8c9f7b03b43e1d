"""What a program is compiled for, while it is traced.

Most forms for one platform are chosen when a program is lowered (`jax.lax.platform_dependent`).
Those that change what a gradient keeps are chosen when it is traced, where JAX does not say yet
for which devices; and the host's own say nothing of them: a CPU compiles for TPUs, too.
"""

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

import jax


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
