"""Encoded images to upright RGB pictures, and the error for those that are damaged."""

import io
import struct

from PIL import Image, ImageOps, UnidentifiedImageError

# PIL reports damaged files through all of these, depending on the format and the place of damage.
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class BadImageError(ValueError):
  """An image that cannot be decoded."""


def open_image(data: bytes, name: str) -> Image.Image:
  """Decodes an image file to RGB, turned upright as its EXIF orientation asks.

  Raises:
    BadImageError: the bytes are damaged, truncated or no image; it says the `name`.
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
