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
from jax.sharding import Mesh, PartitionSpec


class Target(NamedTuple):
  """`count` devices that share the work, of a platform such as "cpu", "gpu" or "tpu".

  `mesh` says how, where they share batches of images: over its axis `data`.  `precision` is that
  of a config's model: of products of float32, "default" is what the platform takes for them (one
  pass of bfloat16 on a TPU, TF32 on a GPU), "highest" is float32.
  """

  platform: str
  count: int = 1
  mesh: Mesh | None = None
  precision: str = "default"


_target: ContextVar[Target | None] = ContextVar("target", default=None)


def compiled_for(function: Callable, target: Target) -> Callable:
  """The function, to be handed to `jax.jit` and traced for `target` whenever that traces it.

  What is traced belongs to the result, not to `function`: each target has its own.

  Raises:
    ValueError: an unknown precision.
  """
  if target.precision not in ("default", "highest"):
    raise ValueError(f"model.precision is {target.precision!r}; expected 'default' or 'highest'.")

  @functools.wraps(function)
  def traced(*args, **kwargs):
    token = _target.set(target)
    try:
      # The default may be that of the environment, JAX_DEFAULT_MATMUL_PRECISION.
      if target.precision == "default":
        return function(*args, **kwargs)
      with jax.default_matmul_precision(target.precision):
        return function(*args, **kwargs)
    finally:
      _target.reset(token)

  return traced


def current() -> Target:
  """The target of what is being traced; by default all devices of this process's backend."""
  return _target.get() or Target(jax.default_backend(), jax.device_count())


def lower_for(traced: jax.stages.Traced, device: jax.Device) -> jax.stages.Lowered:
  """What `jax.jit(f).trace` gave, for devices like this one, which need not be there."""
  platform = "cuda" if device.platform == "gpu" else device.platform
  return traced.lower(lowering_platforms=(platform,))


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


def over_images(function: Callable[..., Any], *arrays: Any) -> Any:
  """`jax.vmap(function, axis_name="images")(*arrays)`, each device on its own images.

  XLA would share such work, too, but every step of a loop would then wait for all devices, whose
  images need different numbers of them, and what is sorted would be gathered on each.

  Args:
    function: of the arrays of one image.
    arrays: trees of arrays [b, ...]; None stands for nothing.
  """
  return on_each_device(
    lambda _, *arrays: jax.vmap(function, axis_name="images")(*arrays), None, *arrays
  )


def on_each_device(function: Callable[..., Any], shared: Any, *arrays: Any) -> Any:
  """`function(shared, *arrays)`, where each device has its own images of the arrays [b, ...].

  What `shared` is differentiated by is added up over the devices once, after all of the function.
  """
  if devices_that_share() == 1:
    return function(shared, *arrays)
  images = PartitionSpec("data")
  places = (PartitionSpec(), *[images] * len(arrays))
  mesh = current().mesh
  return jax.shard_map(function, mesh=mesh, in_specs=places, out_specs=images, check_vma=False)(
    shared, *arrays
  )


def devices_that_share() -> int:
  """The number of devices that the images of a batch are split over, 1 within `on_each_device`."""
  mesh = current().mesh
  if mesh is None or jax.sharding.get_abstract_mesh().manual_axes:
    return 1
  return mesh.shape["data"]


def _single_cpu() -> bool:
  """Whether one CPU device will do all the work."""
  return current()[:2] == ("cpu", 1)
