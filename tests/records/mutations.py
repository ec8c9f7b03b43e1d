"""Small images of ten formats, and files made of them that are damaged in many ways.

  python -m tests.records.mutations FIRST COUNT

decodes the damaged files of the seeds FIRST, FIRST + 1, ... with 1 GiB of address space more than
it starts with, and prints the number of each outcome as JSON.  It names the seed before each file,
on stderr, so that one that ends the process is known.
"""

import collections
import faulthandler
import io
import json
import resource
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from rkd_jax.records import decoding

EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE)


def exif(orientation=6) -> Image.Exif:
  """Tags of a camera, some of them in directories of their own."""
  tags = Image.Exif()
  tags[0x0112], tags[0x011A], tags[0x010F] = orientation, 72.0, "maker"
  tags.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
  tags.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
  return tags


def encoded(picture: Image.Image, fmt: str, several=False, **options) -> bytes:
  buffer = io.BytesIO()
  if several:
    options |= {"save_all": True, "append_images": [picture.rotate(180), picture.transpose(0)]}
  picture.copy().save(buffer, fmt, **options)  # saving leaves settings on the picture
  return buffer.getvalue()


def originals() -> dict[str, list[bytes]]:
  """Sound files of each format, of different modes."""
  rng = np.random.default_rng(0)
  rgb = Image.fromarray(rng.integers(0, 256, (19, 25, 3), np.uint8))
  rgba = Image.fromarray(rng.integers(0, 256, (19, 25, 4), np.uint8))
  deep = Image.fromarray(rng.integers(0, 65536, (19, 25), np.uint16))
  palette, grey, bits = rgb.quantize(16), rgb.convert("L"), rgb.convert("1")

  return {
    "JPEG": [
      encoded(rgb, "JPEG", exif=exif(), comment=b"c"),
      encoded(rgb, "JPEG", progressive=True, restart_marker_rows=1),
      encoded(rgb.convert("CMYK"), "JPEG"),
      encoded(grey, "JPEG", icc_profile=b"x" * 200),
    ],
    "MPO": [encoded(rgb, "MPO", several=True, exif=exif())],
    "PNG": [
      encoded(palette, "PNG", transparency=3, exif=exif()),
      encoded(deep, "PNG"),
      encoded(bits, "PNG", dpi=(72, 72)),
      encoded(rgba, "PNG", several=True, icc_profile=b"x" * 200),
    ],
    "WEBP": [
      encoded(rgb, "WEBP", exif=exif()),
      encoded(rgba, "WEBP", lossless=True, several=True),
    ],
    "BMP": [encoded(picture, "BMP") for picture in (rgb, palette, bits, rgba)],
    "GIF": [encoded(palette, "GIF", transparency=2), encoded(palette, "GIF", several=True)],
    "TIFF": [
      encoded(rgb, "TIFF", compression="tiff_lzw", exif=exif()),
      encoded(deep, "TIFF"),
      encoded(rgb, "TIFF", compression="jpeg"),
      encoded(rgba, "TIFF", compression="tiff_adobe_deflate"),
      encoded(rgb, "TIFF", several=True),
      encoded(bits, "TIFF", compression="group4"),
    ],
    "PPM": [
      *(encoded(picture, "PPM") for picture in (rgb, grey, bits, deep.convert("I"))),
      b"P3 2 2 255\n1 2 3 4 5 6 7 8 9 10 11 12\n",
      b"P2 # c\n2 2 1000\n1 2 3 999\n",
      b"P1\n3 2\n101010\n",
    ],
    "AVIF": [
      encoded(rgb, "AVIF", exif=exif()),
      encoded(rgba, "AVIF"),
      encoded(rgb, "AVIF", several=True),
    ],
    "JPEG2000": [
      encoded(rgb, "JPEG2000", quality_layers=[20]),
      encoded(deep, "JPEG2000"),
      encoded(rgb, "JPEG2000", no_jp2=True, tile_size=(16, 16)),
    ],
  }


def _with_checksums(data: bytes) -> bytes:
  """A PNG whose chunks have the checksums of what they hold now, so that more of it is read."""
  data, place = bytearray(data), 8
  while place + 12 <= len(data):
    end = place + 8 + int.from_bytes(data[place : place + 4])
    if end + 4 > len(data):
      break
    data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4)
    place = end + 4
  return bytes(data)


def mutated(originals: dict[str, list[bytes]], seed: int) -> tuple[str, bytes]:
  """The format and the damaged file of a seed; every tenth seed has the same format."""
  rng = np.random.default_rng(seed)
  fmt = list(originals)[seed % len(originals)]
  files = originals[fmt]
  data = bytearray(files[rng.integers(len(files))])

  def place(reach=None):
    return int(rng.integers(min(len(data), reach or len(data)) or 1))

  for _ in range(min(rng.geometric(0.6), 4)):
    reach = (16, 64, 256, None)[rng.integers(4)]  # headers are where most is decided
    way = rng.integers(8)
    if way == 0:  # bits
      for _ in range(rng.integers(1, 9)):
        if data:
          data[place(reach)] ^= 1 << rng.integers(8)
    elif way == 1:  # bytes
      at = place(reach)
      data[at : at + 4] = rng.bytes(rng.integers(1, 5))
    elif way in (2, 3):  # a number, such as a size, an offset or the length of a chunk
      at, width = place(reach), (2, 4)[rng.integers(2)]
      number = int(rng.choice(EXTREMES)) & (256**width - 1)
      data[at : at + width] = number.to_bytes(width, ("big", "little")[rng.integers(2)])
    elif way == 4:  # cut off
      del data[place() :]
    elif way == 5:  # a part left out
      at = place()
      del data[at : at + int(rng.integers(1, 64))]
    elif way == 6:  # a part twice, or where another was
      at, start = place(), place()
      data[at : at + int(rng.integers(0, 64))] = data[start : start + int(rng.integers(1, 64))]
    else:  # the end of another file
      other = list(originals.values())[rng.integers(len(originals))][0]
      data[place() :] = other[int(rng.integers(len(other))) :]
  if fmt == "PNG" and rng.random() < 0.7:
    data = _with_checksums(data)
  return fmt, bytes(data)


def outcome(data: bytes, name: str) -> str:
  """'decoded' or 'refused'; anything else is raised, and an AssertionError for a wrong picture."""
  try:
    pixels = np.asarray(decoding.open_image(data, name))
  except decoding.BadImageError as error:
    assert name in str(error), error
    return "refused"
  assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, pixels.shape
  assert pixels.size > 0
  return "decoded"


def main(first: int, count: int) -> None:
  faulthandler.enable()
  files = originals()
  for own in files.values():  # loads the decoders
    for data in own:
      assert outcome(data, "sound") == "decoded"
  virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (virtual + 2**30,) * 2)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  counts, slowest = collections.Counter(), (0.0, -1)
  for seed in range(first, first + count):
    print(seed, file=sys.stderr, flush=True)
    fmt, data = mutated(files, seed)
    start = time.process_time()
    counts[f"{fmt} {outcome(data, f'seed {seed}')}"] += 1
    slowest = max(slowest, (time.process_time() - start, seed))
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  print(json.dumps({"counts": counts, "grown_mb": grown // 1024, "slowest": slowest}))


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
