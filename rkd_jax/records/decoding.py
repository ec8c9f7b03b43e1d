"""Encoded images to upright RGB pictures, and the error for those that cannot be decoded.

The content says what an image is, not the name of its file: one of `FORMATS`, of which the first
picture is taken where there are several.  Others are not looked at, least of all those that start
programs (EPS).  Pixels of 8 bits a channel are taken as they are and transparency is dropped; of
16 bits the upper eight are kept; floats and 32-bit integers, whose black and white nobody knows,
are refused.  An orientation that cannot be read leaves the picture as it is stored.
"""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

# Of an image that a user brings: what decoding takes stays below 1 GB.
MAX_PIXELS = 120_000_000
# By Pillow's names, and how many times as much memory as for the others decoding takes.
FORMATS = {
  **{"JPEG": 1, "PNG": 1, "GIF": 1, "BMP": 1, "PPM": 1, "TIFF": 1},
  **{"WEBP": 2, "AVIF": 2, "JPEG2000": 3},
}
# How their files end, in lower case.
SUFFIXES = (
  *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp"),
  *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".avif"),
)
_MOST_SCANNED = 20 * MAX_PIXELS  # pixels, in all scans of a JPEG
_STRIP = 2**22  # pixels
_REMEDY = "Replace the file, remove its record, or pass --skip_bad_images."
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# What is taken for images most often, by how it begins.
_NO_IMAGES = {
  b"": "the file is empty",
  b"version https://git-lfs": "it is a pointer of Git LFS; `git lfs pull` gets the image",
  b"<": "it is text in HTML, XML or SVG",
  b"%!PS": "PostScript is not read",
}


class BadImageError(ValueError):
  """An image that cannot be decoded, or that is larger than what may be decoded."""


def open_image(
  data: bytes,
  name: str,
  max_pixels: int = MAX_PIXELS,
  recorded: tuple[int, int] | None = None,
) -> Image.Image:
  """Decodes an image file to RGB, turned upright as its EXIF orientation asks.

  Args:
    data: the file.
    name: what errors call it.
    max_pixels: larger images are refused before they are decoded; WebP and AVIF from half of it,
      JPEG 2000 from a third, which take so much more memory.
    recorded: (width, height) that it must have, in place of `max_pixels`; this, too, is compared
      before anything is decoded.

  Raises:
    BadImageError: the bytes are damaged, truncated, no image or too large; it says the `name`.
  """
  return _decode(io.BytesIO(data), len(data), name, max_pixels, recorded)


def open_file(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
  """As `open_image`, of a file that is read as far as needed.

  Raises:
    BadImageError: as there, or the file cannot be read.
  """
  with _file(path) as (file, length):
    return _decode(file, length, os.fspath(path), max_pixels, None)


def upright_size(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
  """Width and height of what `open_file` gives, from the head of the file: nothing is decoded.

  Raises:
    BadImageError: as there, but damage behind the head is not seen.
  """
  name = os.fspath(path)
  with (
    _file(path) as (file, length),
    _explained(file, length, name, max_pixels, None),
    Image.open(file, formats=tuple(FORMATS)) as image,
  ):
    _check_size(image, name, max_pixels, None)
    width, height = image.size
    lies = (_orientation(image) or 1) >= 5
  return (height, width) if lies else (width, height)


@contextlib.contextmanager
def _file(path: str | os.PathLike) -> Iterator[tuple[BinaryIO, int]]:
  """A file and its length in bytes."""
  name = os.fspath(path)
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for ever
      raise BadImageError(f"Cannot read {name}: it is no file. {_REMEDY}")
    with open(path, "rb") as file:
      yield file, os.fstat(file.fileno()).st_size
  except OSError as error:
    raise BadImageError(f"Cannot read {name}: {error.strerror}. {_REMEDY}") from error


def in_rgb(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
  """An opened picture as `open_image` gives it: RGB, turned upright.

  Raises:
    BadImageError: as there.
  """
  try:
    _check_size(image, name, max_pixels, None)
    image.load()
    turn = _UPRIGHT.get(_orientation(image) or 1)
    picture = _in_rgb(image)
  except BadImageError:
    raise
  except Exception as error:  # as in `_decode`
    raise BadImageError(f"Cannot decode {name}: {error}. {_REMEDY}") from error
  return picture if turn is None else picture.transpose(turn)


def pixels(picture: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
  """The picture as an array, in strips, since Pillow holds what it converts twice."""
  width, height = picture.size
  out = np.empty((height, width, 3), np.uint8)
  rows = max(_STRIP // width, 1)
  for top in range(0, height, rows):
    strip = picture.crop((0, top, width, min(top + rows, height)))
    out[top : top + rows] = np.asarray(strip)
  return out


def _decode(
  stream: BinaryIO, length: int, name: str, max_pixels: int, recorded: tuple[int, int] | None
) -> Image.Image:
  with _explained(stream, length, name, max_pixels, recorded):
    with Image.open(stream, formats=tuple(FORMATS)) as image:
      _check_size(image, name, max_pixels, recorded)
      if image.info.get("progressive"):
        _check_scans(image, stream)
      if image.format == "TIFF":
        _forget_nonsense(image)
      image.load()
      turn = _UPRIGHT.get(_orientation(image) or 1)
      picture = _in_rgb(image)
    del image  # what was not in RGB need not stay
    if turn is not None:
      picture = picture.transpose(turn)
  if recorded is not None and picture.size != recorded:
    _differs(name, picture.size, recorded)
  return picture


@contextlib.contextmanager
def _explained(
  stream: BinaryIO, length: int, name: str, max_pixels: int, recorded: tuple[int, int] | None
) -> Iterator[None]:
  """Makes every error inside a BadImageError, where Pillow may open what has so many pixels."""
  wanted = max_pixels if recorded is None else recorded[0] * recorded[1]
  if Image.MAX_IMAGE_PIXELS is not None and wanted > Image.MAX_IMAGE_PIXELS:
    Image.MAX_IMAGE_PIXELS = wanted  # Pillow's own guard must not be the stricter one
  try:
    yield
  except BadImageError:
    raise
  # Whatever a decoder stumbles on: beside its own errors there are those of arithmetic, types,
  # recursion and memory, depending on the format and the place of damage.
  except Exception as error:
    if isinstance(error, Image.DecompressionBombError) and recorded is None:
      _refuse(name, str(error), max_pixels, error)
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
      # Pillow would name an object by its address, which no two runs have in common.
      reason = _no_image(stream)
    raise BadImageError(f"Cannot decode {name} ({length} bytes): {reason}. {_REMEDY}") from error


def _check_size(
  image: Image.Image, name: str, max_pixels: int, recorded: tuple[int, int] | None
) -> None:
  """Refuses an image that is empty, too large or not as recorded; nothing is decoded yet."""
  width, height = image.size
  if width < 1 or height < 1:
    raise ValueError(f"it has no pixels, {width} x {height}")
  if image.format == "TIFF":  # its tiles may be larger than the picture
    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    if (tile := int(tags.get(322, 0)) * int(tags.get(323, 0))) > max_pixels:
      raise ValueError(f"its tiles have {tile:,} pixels, which is too large")
  if recorded is not None:
    # Turned upright, its sides may change places.
    if sorted(image.size) != sorted(recorded):
      _differs(name, image.size, recorded)
    return
  limit = max_pixels // FORMATS.get(image.format or "", 1)
  if width * height > limit:
    of = "" if limit == max_pixels else f", with which {image.format} may have {limit:,}"
    _refuse(name, f"{width} x {height} is {width * height:,} pixels{of}", max_pixels)


def _check_scans(image: Image.Image, stream: BinaryIO) -> None:
  """Refuses a JPEG that goes over its pixels for minutes; cameras and editors do so ten times."""
  stream.seek(0)
  scans = stream.read().count(b"\xff\xda")
  if scans * image.width * image.height > _MOST_SCANNED:
    raise ValueError(f"it has {scans} scans of {image.width} x {image.height} pixels")


def _differs(name: str, found: tuple[int, int], recorded: tuple[int, int]) -> NoReturn:
  raise BadImageError(
    f"{name} is {found[0]}×{found[1]} pixels but recorded as {recorded[0]}×{recorded[1]}: the "
    "boxes would be wrong; build the data set again"
  )


def _refuse(name: str, size: str, max_pixels: int, cause: Exception | None = None) -> NoReturn:
  raise BadImageError(
    f"{name} is too large: {size}; --max_pixels is {max_pixels}. Make it smaller, raise "
    "--max_pixels if there is memory for it (8 bytes a pixel), or pass --skip_bad_images."
  ) from cause


def _no_image(stream: BinaryIO) -> str:
  """Why nothing was found that is decoded."""
  stream.seek(0)
  start = stream.read(64).lstrip()
  for prefix, reason in _NO_IMAGES.items():
    if start == prefix or (prefix and start.startswith(prefix)):
      return reason
  return f"no known format ({', '.join(FORMATS)}), or its header is damaged"


def _orientation(image: Image.Image) -> int | None:
  """EXIF's (or XMP's) orientation; None if there is none, or none that can be read."""
  # The other tags of a camera that writes nonsense say nothing about the pixels.
  with contextlib.suppress(Exception):
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    return orientation if orientation in range(1, 9) else None
  return None


def _forget_nonsense(image: Image.Image) -> None:
  """Leaves a TIFF only the tags that loading can digest: it reads all, and turns the picture."""
  usable, tags = _orientation(image) is not None, image.getexif()
  for tag in (*ExifTags.IFD, *(() if usable else (ExifTags.Base.Orientation,))):
    with contextlib.suppress(Exception):
      del tags[tag]


def _in_rgb(image: Image.Image) -> Image.Image:
  """The loaded picture with 8 bits a channel; ValueError where these are not known."""
  if image.mode == "RGB":
    return image
  whole = image.mode == "I" and image.format in ("PPM", "PNG")  # 0 to 65535 in 32 bits
  if not whole and not image.mode.startswith("I;16"):
    if image.mode in ("I", "F"):
      kind = "floats" if image.mode == "F" else "integers of 32 bits, or signed ones"
      raise ValueError(f"its pixels are {kind}, with no fixed white: save it with 8 or 16 bits")
    return image.convert("RGB")
  bits, inverted = 16, False
  if image.format == "TIFF":
    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    bits, inverted = tags.get(258, (16,))[0], tags.get(262) == 0
  upper = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
  return Image.fromarray(255 - upper if inverted else upper).convert("RGB")
