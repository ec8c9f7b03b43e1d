"""The canvas beyond an image: what makes a larger one change nothing."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from rkd_jax.structures import Arr

# Where each image of a batch ends for the network, (height, width) in image pixels.
Extents = Int[Arr, "b 2"]


def extents_of(sizes: Extents, to: str, multiple: int) -> Extents:
  """Where a network whose padding is `to` a multiple takes images of these sizes to end.

  Each image alone ("image", published FPN models); or, as in the reference, all where the largest
  of the batch does ("batch").  The canvas beyond changes nothing.

  Raises:
    ValueError: another `to`.
  """
  if to == "batch":
    sizes = jnp.broadcast_to(jnp.max(sizes, axis=0), sizes.shape)
  elif to != "image":
    raise ValueError(f"model.padding.to is {to!r}; expected 'image' or 'batch'.")
  return -(-sizes // multiple) * multiple


def cells_inside(
  x: Float[Arr, "b h w c"], extents: Extents | None, stride: int
) -> Bool[Arr, "b h w 1"] | None:
  """Which cells of a map of this stride lie at least partly within `extents`; None: all."""
  if extents is None:
    return None
  rows, columns = (
    jnp.arange(x.shape[axis + 1]) < -(-extents[:, axis, None] // stride) for axis in (0, 1)
  )
  return (rows[:, :, None] & columns[:, None, :])[..., None]


def zero_beyond(
  x: Float[Arr, "b h w c"], extents: Extents | None, stride: int
) -> Float[Arr, "b h w c"]:
  """Zeroes the cells of a map of this stride that lie wholly beyond `extents`.

  A convolution then sees there what its own padding would give at the border of an image of
  that size.  None keeps everything.
  """
  return zero_outside(x, cells_inside(x, extents, stride))


def zero_outside(
  x: Float[Arr, "b h w c"], inside: Bool[Arr, "b h w 1"] | None
) -> Float[Arr, "b h w c"]:
  """`x` where `inside` and zero elsewhere; None keeps everything."""
  return x if inside is None else jnp.where(inside, x, 0)
