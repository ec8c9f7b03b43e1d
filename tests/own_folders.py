"""Eight made-up photographs with the same objects, in each of the formats that people bring.

Sizes are powers of two, so that fractions of them are exact.
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 32
# In alphabetical order, in which VOC's become classes.
NAMES = ("cat", "dog", "kite")
# Of each image: class and XYXY pixels.
OBJECTS = (
  ((0, (1, 2, 21, 22)), (2, (40, 4, 60, 28))),
  ((1, (8, 8, 24, 24)),),
  (),
  ((0, (1, 1, 33, 31)),),
  ((2, (16, 4, 48, 20)), (2, (2, 2, 10, 10))),
  ((1, (30, 10, 64, 32)),),
  ((0, (4, 4, 12, 28)), (1, (20, 4, 44, 28))),
  ((2, (10, 1, 50, 31)),),
)


def png(number: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
  """A picture with a rectangle for each object."""
  pixels = np.random.default_rng(number).integers(0, 60, (height, width, 3), np.uint8)
  for label, (x1, y1, x2, y2) in OBJECTS[number]:
    pixels[y1:y2, x1:x2] = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]])[label]
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "PNG")
  return buffer.getvalue()


def write_images(folder: Path, numbers=range(8)) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for number in numbers:
    (folder / f"{number}.png").write_bytes(png(number))


def coco_content(numbers=range(8)) -> dict:
  objects = [(number, *thing) for number in numbers for thing in OBJECTS[number]]
  return {
    "images": [
      {"id": n + 1, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in numbers
    ],
    "annotations": [
      {
        "id": place + 1,
        "image_id": number + 1,
        "category_id": label,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
      }
      for place, (number, label, (x1, y1, x2, y2)) in enumerate(objects)
    ],
    "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES)],
  }


def write_coco(folder: Path) -> Path:
  write_images(folder / "images")
  (folder / "train.json").write_text(json.dumps(coco_content()))
  return folder


def voc_xml(number: int, more: str = "") -> str:
  """VOC's pixels are numbered from 1."""
  objects = "".join(
    f"""
  <object>
    <name>{NAMES[label]}</name>
    <truncated>0</truncated>
    <difficult>0</difficult>
    <bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>
  </object>"""
    for label, (x1, y1, x2, y2) in OBJECTS[number]
  )
  size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
  head = f"<annotation>\n  <filename>{number}.png</filename>\n  {size}"
  return f"{head}{objects}{more}\n</annotation>\n"


def write_voc(folder: Path, numbers=range(8)) -> Path:
  write_images(folder / "JPEGImages", numbers)
  (folder / "Annotations").mkdir()
  for number in numbers:
    (folder / "Annotations" / f"{number}.xml").write_text(voc_xml(number))
  return folder


def yolo_lines(number: int) -> str:
  return "".join(
    f"{label} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} "
    f"{(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}\n"
    for label, (x1, y1, x2, y2) in OBJECTS[number]
  )


def write_yolo(folder: Path, numbers=range(8)) -> Path:
  """An image without objects has no file of labels."""
  write_images(folder / "images" / "train", numbers)
  (folder / "labels" / "train").mkdir(parents=True)
  for number in numbers:
    if OBJECTS[number]:
      (folder / "labels" / "train" / f"{number}.txt").write_text(yolo_lines(number))
  names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
  (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{names}")
  return folder


WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
