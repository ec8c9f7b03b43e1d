"""Encoded images to upright RGB pictures, and the error for those that are damaged."""

import io
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

# PIL reports damaged files through all of these, depending on the format and the place of damage.
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class BadImageError(ValueError):
  """An image that cannot be decoded."""


def open_image(data: bytes, name: str) -> Image.Image:
  """Decodes an encoded image to RGB, turned upright as its EXIF orientation asks.

  Args:
    data: the bytes of a JPEG, PNG, ... file.
    name: what to call the image in an error (file and record id).

  Raises:
    BadImageError: the bytes are damaged, truncated or no image.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      # In place: what is upright and RGB is not copied.
      ImageOps.exif_transpose(image, in_place=True)
      return image if image.mode == "RGB" else image.convert("RGB")
  except _ERRORS as error:
    # PIL would name an object by its address, which no two runs have in common.
    unknown = isinstance(error, UnidentifiedImageError)
    raise BadImageError(
      f"Cannot decode {name} ({len(data)} bytes): {'no known format' if unknown else error}. "
      "Replace the file, remove its record, or pass --skip_bad_images."
    ) from error


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
  """As `open_image`, the pixels as an array."""
  return np.asarray(open_image(data, name))
