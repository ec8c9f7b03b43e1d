"""Images that nobody should have, as files: what each command is given in tests of faults.

  python -m tests.absurd FOLDER

takes all of them, one by one, through prediction, the builder of COCO files, the input of training
and the offline step, with the data and the run that `tiny_coco` has in FOLDER, and prints what came
of each, its memory and its time as JSON.
"""

import dataclasses
import functools
import io
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
RGB = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), np.uint8))
DEEP = Image.fromarray(RNG.integers(0, 65536, (24, 32), np.uint16))


def encoded(picture: Image.Image, fmt: str, **options) -> bytes:
  buffer = io.BytesIO()
  picture.copy().save(buffer, fmt, **options)
  return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
  checksum = zlib.crc32(kind + content).to_bytes(4)
  return len(content).to_bytes(4) + kind + content + checksum


def png(width: int, height: int, bits: int, colours: int, rows: bytes, *more: bytes) -> bytes:
  """A PNG of a header, further chunks and the content of its rows."""
  header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
  chunks = (
    chunk(b"IHDR", header),
    *more,
    chunk(b"IDAT", zlib.compress(rows, 9)),
    chunk(b"IEND", b""),
  )
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bilevel(side: int) -> bytes:
  """A white square, of which a megapixel takes 120 bytes."""
  return png(side, side, 1, 0, (b"\0" + b"\xff" * -(-side // 8)) * side)


def tiff(width: int, height: int, **more: int) -> bytes:
  """The tags of an 8-bit TIFF, with numbers of tags as t322=..., and no pixels to speak of."""
  tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1}
  tags |= {int(name[1:]): value for name, value in more.items()}
  entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
  return (
    b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + zlib.compress(b"x")
  )


def looping_exif() -> bytes:
  """Tags whose directories are each other."""
  entries = [(0x0112, 3, 1, 6), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)]
  packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
  return (
    b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + struct.pack("<I", 8)
  )


@functools.cache
def files() -> dict[str, tuple[bytes | Callable[[Path], None], tuple[int, int] | None]]:
  """By name the content, or what makes the file, and the (height, width) that is right.

  None: it is to be refused.
  """
  text = b"t\0\0" + zlib.compress(b"x" * 2**27, 9)
  gif = bytearray(encoded(RGB.quantize(8), "GIF", save_all=True, append_images=[RGB.quantize(4)]))
  canvas = gif.copy()
  canvas[6:10] = b"\xff" * 4
  palette = chunk(b"PLTE", bytes(range(12)))
  strip = Image.fromarray(RNG.integers(0, 256, (1, 30_000, 3), np.uint8))
  return {
    "empty.jpg": (b"", None),
    "one_pixel.png": (encoded(RGB.crop((0, 0, 1, 1)), "PNG"), (1, 1)),
    "lying_strip.png": (encoded(strip, "PNG"), (1, 30_000)),
    "standing_strip.png": (encoded(strip.transpose(Image.Transpose.ROTATE_90), "PNG"), (30_000, 1)),
    "bomb.png": (bilevel(11_300), None),
    "large.png": (bilevel(10_900), (10_900, 10_900)),
    "huge_header.png": (png(2**31 - 1, 2**31 - 1, 16, 6, b""), None),
    "huge_header.ppm": (b"P6 100000 100000 255\n", None),
    "nothing.ppm": (b"P6 0 0 255\n", None),
    "sixteen_bits.png": (encoded(DEEP, "PNG"), (24, 32)),
    "sixteen_bits.tif": (encoded(DEEP, "TIFF"), (24, 32)),
    "floats.tif": (encoded(RGB.convert("F"), "TIFF"), None),
    "integers.tif": (encoded(RGB.convert("I"), "TIFF"), None),
    "huge_tiles.tif": (tiff(10, 10, t322=60_000, t323=60_000, t324=90, t325=9), None),
    "huge_strips.tif": (tiff(60_000, 60_000, t273=90, t278=60_000, t279=9), None),
    "cmyk.jpg": (encoded(RGB.convert("CMYK"), "JPEG"), (24, 32)),
    "grey_alpha.png": (encoded(RGB.convert("LA"), "PNG"), (24, 32)),
    "truncated.jpg": (encoded(RGB, "JPEG")[:-200], None),
    "text_bomb.png": (png(4, 4, 8, 0, bytes(20), chunk(b"zTXt", text)), None),
    "animation.gif": (bytes(gif), (24, 32)),
    "huge_canvas.gif": (bytes(canvas), None),
    "beyond_palette.png": (png(4, 4, 8, 3, b"\0\0\1\2\xff" * 4, palette), (4, 4)),
    "looping_exif.jpg": (encoded(RGB, "JPEG", exif=looping_exif()), (32, 24)),
    "eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n", None),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", None),
    "page.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", None),
    "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", None),
    "film.jpg": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2mp41" + RNG.bytes(2000), None),
    "folder.jpg": (lambda path: path.mkdir(), None),
    "loop.jpg": (lambda path: path.symlink_to(path), None),
    "nowhere.jpg": (lambda path: path.symlink_to("nothing"), None),
    "pipe.jpg": (os.mkfifo, None),
  }


def make(folder: Path, name: str) -> Path:
  content, _ = files()[name]
  path = folder / name
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    content(path)
  return path


def _status(key: str) -> float:
  """A figure of this process in MB."""
  lines = Path("/proc/self/status").read_text().splitlines()
  return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def _measured(call: Callable[[Path], object], path: Path) -> dict:
  Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
  # Of the processor, whatever else runs there; what waits for ever ends at the test's limit.
  before, start = _status("VmRSS"), time.process_time()
  try:
    result = call(path)
  except Exception as error:
    result = f"{type(error).__name__}: {error}"
  seconds = time.process_time() - start
  return {"result": result, "mb": _status("VmHWM") - before, "seconds": seconds}


def main(root: Path) -> None:
  """Every command on every image; sizes [height, width], or the text of an error."""
  from rkd_jax.data.coco_json import coco_json
  from rkd_jax.detect.folder import load
  from rkd_jax.inputs.batching import eval_batches
  from rkd_jax.inputs.plan import detector_specs
  from rkd_jax.predict import predict
  from rkd_jax.records.sources import open_source
  from rkd_jax.teachers.images import Options, prepare
  from rkd_jax.teachers.region_growing import RegionGrowing
  from tests import tiny_coco

  config = tiny_coco.get_config(str(root))
  spec, detector = detector_specs(config)["eval"], load(root / "run", config=config)
  vocabulary = detector.vocabulary()
  plain = open_source(config.data.dir, config.data.name, "train")[0]
  known = files()

  def predicted(path: Path):
    (image,) = predict(detector, [path], vocabulary, root / "out", min_score=0.0)["images"]
    with Image.open(root / "out" / image["picture"]) as picture:
      assert picture.width * picture.height < 2**26 and max(picture.size) <= 2**15, picture.size
      picture.load()
    return image["height"], image["width"]

  def built(path: Path):
    height, width = known[path.name][1] or (9, 9)
    image = {"id": 1, "file_name": path.name, "height": height, "width": width}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    json_path = root / f"{path.name}.json"
    json_path.write_text(json.dumps(content))
    split = coco_json.Files(json_path, path.parent)
    (record,) = coco_json.CocoJson(data_dir=root / "built", train=split)._records("train")
    return record.row.height, record.row.width

  def record_of(path: Path):
    data = path.read_bytes() if path.is_file() else b""
    height, width = known[path.name][1] or (24, 32)
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    fields = {"image": data, "height": height, "width": width, "boxes": boxes}
    return dataclasses.replace(plain, **fields)

  def read(path: Path):
    (batch,) = eval_batches([record_of(path)], spec, threads=0)
    return batch.original_sizes[0].tolist()

  def precomputed(path: Path):
    record = record_of(path)
    found = prepare(record, RegionGrowing(), (), 32, Options())
    if "unreadable" in found.notes:
      raise ValueError(found.notes["unreadable"])
    return record.height, record.width

  commands = {"predict": predicted, "builder": built, "training": read, "precompute": precomputed}
  folder = root / "absurd"
  folder.mkdir(exist_ok=True)
  predicted(make(folder, "one_pixel.png"))  # compiles
  for name in known:
    path = folder / name
    if not os.path.lexists(path):
      make(folder, name)
    for command, call in commands.items():
      print(json.dumps({"name": name, "command": command, **_measured(call, path)}), flush=True)


if __name__ == "__main__":
  main(Path(sys.argv[1]))
