"""From pixels to what CLIP's image towers expect."""

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, UInt8
from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(images: UInt8[Array | np.ndarray, "*b h w 3"]) -> Float[jax.Array, "*b h w 3"]:
  """uint8 RGB to float32 with CLIP's channel mean and standard deviation."""
  pixels = jnp.asarray(images, jnp.float32) / 255
  return (pixels - jnp.array(MEAN)) / jnp.array(STD)


def resize_and_center_crop(image: Image.Image, size: int) -> Image.Image:
  """Bicubic resize of the shorter side to `size`, then the central `size` square.

  Rounds as CLIP's own transform does: the longer side down, the crop's offset half to even.
  A very thin image keeps little more than its central square.
  """
  width, height = image.size
  short = min(width, height)
  width, height = size * width // short, size * height // short
  if (width, height) != image.size:
    image = image.resize((width, height), Image.Resampling.BICUBIC)
  left, top = round((width - size) / 2), round((height - size) / 2)
  return image.crop((left, top, left + size, top + size))
