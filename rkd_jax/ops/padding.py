"""The canvas beyond an image: what makes a larger one change nothing."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from rkd_jax.structures import Arr

# Where each image of a batch ends for the network, (height, width) in image pixels.
Extents = Int[Arr, "b 2"]


def zero_beyond(
  x: Float[Arr, "b h w c"], extents: Extents | None, stride: int
) -> Float[Arr, "b h w c"]:
  """Zeroes the cells of a map of this stride that lie wholly beyond `extents`.

  A convolution then sees there what its own padding would give at the border of an image of
  that size.  None keeps everything.
  """
  if extents is None:
    return x
  inside = [jnp.arange(x.shape[axis + 1]) < -(-extents[:, axis, None] // stride) for axis in (0, 1)]
  return jnp.where((inside[0][:, :, None] & inside[1][:, None, :])[..., None], x, 0)
