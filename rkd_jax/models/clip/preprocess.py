"""From pixels to what CLIP's image towers expect."""

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, UInt8

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(images: UInt8[Array | np.ndarray, "*b h w 3"]) -> Float[jax.Array, "*b h w 3"]:
  """uint8 RGB to float32 with CLIP's channel mean and standard deviation."""
  pixels = jnp.asarray(images, jnp.float32) / 255
  return (pixels - jnp.array(MEAN)) / jnp.array(STD)
