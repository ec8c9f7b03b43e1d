"""Small folders in the exact format of the official COCO 2017 and LVIS v1 files, for tests.

They hold what makes trouble: crowds, images without annotations, boxes past the border or without
area, polygons of two corners, grey and CMYK JPEGs, captions that are not ASCII.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from rkd_jax.data.coco_ovd import vocabulary

HEIGHT, WIDTH = 40, 56
_COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
COCO_ID = dict(zip(vocabulary.SYNONYMS, _COCO_IDS))
TRIANGLE = [4.25, 5.5, 24.75, 5.5, 24.75, 30.01]
SQUARE = [30, 4, 50, 4, 50, 24, 30, 24]


def write_image(path: Path, mode: str = "RGB", format: str = "JPEG") -> None:
  """An image of noise that differs from file to file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  channels = {"RGB": (3,), "L": (), "CMYK": (4,)}[mode]
  rng = np.random.default_rng(sum(path.name.encode()))
  pixels = rng.integers(0, 256, (HEIGHT, WIDTH, *channels), np.uint8)
  Image.fromarray(pixels, mode).save(path, format)


def _image(number: int, folder: str) -> dict:
  name = f"{number:012}.jpg"
  return {
    "license": 1,
    "file_name": name,
    "coco_url": f"http://images.cocodataset.org/{folder}/{name}",
    "height": HEIGHT,
    "width": WIDTH,
    "date_captured": "2013-11-14 17:02:52",
    "flickr_url": f"http://farm.staticflickr.com/{name}",
    "id": number,
  }


def _annotation(number: int, image: int, category: int, bbox: list, segmentation=None) -> dict:
  x, y, w, h = bbox
  outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
  return {
    "id": number,
    "image_id": image,
    "category_id": category,
    "bbox": bbox,
    "area": float(w * h),
    "segmentation": outline if segmentation is None else segmentation,
  }


def _dump(path: Path, content: dict) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps({"info": {}, "licenses": [], **content}))


def write_coco(root: Path) -> None:
  """COCO 2017 in `root`: four training images, three for validation.

  Base boxes are in training images 9 and 30; 25 has a novel one alone, 34 nothing.  Validation
  images 139 has a base and a novel box, 285 only a class that OV-COCO leaves out, 632 nothing.
  """
  categories = [{"supercategory": "thing", "id": i, "name": name} for name, i in COCO_ID.items()]
  runs = {"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}
  boxes = [
    _annotation(1, 9, COCO_ID["person"], [4.25, 5.5, 20.5, 24.51], [TRIANGLE]),
    _annotation(2, 9, COCO_ID["dog"], [30, 4, 20, 20], [SQUARE]),
    {**_annotation(3, 9, COCO_ID["person"], [0, 0, WIDTH, HEIGHT], runs), "iscrowd": 1},
    _annotation(4, 25, COCO_ID["dog"], [3, 3, 20, 20]),
    _annotation(5, 30, COCO_ID["truck"], [40, 10, 25, 20], [SQUARE, [1, 2, 3, 4]]),
    _annotation(6, 30, COCO_ID["truck"], [9.98, 18.5, 0, 2.5]),
    _annotation(7, 30, COCO_ID["traffic light"], [1, 1, 9, 9]),
  ]
  images = [_image(number, "train2017") for number in (9, 25, 30, 34)]
  annotations = [{"iscrowd": 0, **entry} for entry in boxes]
  content = {"images": images, "annotations": annotations, "categories": categories}
  _dump(root / "annotations/instances_train2017.json", content)

  boxes = [
    _annotation(1, 139, COCO_ID["person"], [4, 5, 20, 24], [TRIANGLE]),
    _annotation(2, 139, COCO_ID["dog"], [30, 4, 20, 20], [SQUARE]),
    _annotation(3, 139, COCO_ID["stop sign"], [1, 1, 9, 9]),
    _annotation(4, 285, COCO_ID["stop sign"], [1, 1, 9, 9]),
  ]
  images_val = [_image(number, "val2017") for number in (139, 285, 632)]
  annotations = [{"iscrowd": 0, **entry} for entry in boxes]
  content = {"images": images_val, "annotations": annotations, "categories": categories}
  _dump(root / "annotations/instances_val2017.json", content)

  captions = [
    (9, "A dog and a man\n"),
    (9, "Ein Mädchen, ein dog"),
    (9, "a woman with a STOP sign"),
    (25, "two dogs "),
    (30, "a truck next to"),
    (30, "traffic lights"),
    (34, "犬 and a cup"),
  ]
  entries = [
    {"image_id": image, "id": number, "caption": caption}
    for number, (image, caption) in enumerate(captions, start=1)
  ]
  _dump(root / "annotations/captions_train2017.json", {"images": images, "annotations": entries})
  for number, mode in ((9, "RGB"), (25, "L"), (30, "CMYK"), (34, "RGB")):
    write_image(root / f"train2017/{number:012}.jpg", mode)
  for number in (139, 285, 632):
    write_image(root / f"val2017/{number:012}.jpg")


# Name, frequency, in how many training images of `write_lvis`, and the synset.
LVIS_CLASSES = (
  ("aerosol_can", "c", 1, "aerosol.n.02"),
  ("bat_(animal)", "r", 1, "bat.n.01"),
  ("cat", "f", 2, "cat.n.01"),
  ("zoo", "f", 0, "menagerie.n.02"),
)


def write_lvis(root: Path, coco: Path) -> None:
  """LVIS v1 in `root` with its images in `coco`: three training images, two for validation.

  Training images 9 (aerosol_can and cat) and 25 (a cat and a bat, the rare class); 30 is empty.
  Validation images 139 and, from the folder train2017 as LVIS has it, 71.
  """
  categories = [
    {
      "id": number,
      "name": name,
      "frequency": frequency,
      "image_count": count,
      "instance_count": count,
      "synset": synset,
      "synonyms": [name],
      "def": "a thing",
    }
    for number, (name, frequency, count, synset) in enumerate(LVIS_CLASSES, start=1)
  ]

  def image(number, folder, negative, not_exhaustive):
    entry = _image(number, folder)
    del entry["file_name"]
    entry["neg_category_ids"] = negative
    entry["not_exhaustive_category_ids"] = not_exhaustive
    write_image(coco / f"{folder}/{number:012}.jpg")
    return entry

  train = {
    "images": [
      image(9, "train2017", [2], [3]),
      image(25, "train2017", [4, 1], []),
      image(30, "train2017", [], []),
    ],
    "annotations": [
      _annotation(1, 9, 1, [4.25, 5.5, 20.5, 24.51], [TRIANGLE, SQUARE]),
      _annotation(2, 9, 3, [30, 4, 20, 20], [SQUARE]),
      _annotation(3, 25, 3, [0, 0, 57.5, 40], [[0, 0, 57.5, 0, 57.5, 40]]),
      _annotation(4, 25, 2, [30, 4, 20, 20], [SQUARE]),
    ],
    "categories": categories,
  }
  validation = {
    "images": [image(139, "val2017", [1], []), image(71, "train2017", [], [3])],
    "annotations": [
      _annotation(1, 139, 2, [30, 4, 20, 20], [SQUARE]),
      _annotation(2, 139, 3, [4.25, 5.5, 20.5, 24.51], [TRIANGLE]),
      _annotation(3, 71, 3, [30, 4, 20, 20], [SQUARE]),
    ],
    "categories": categories,
  }
  _dump(root / "lvis_v1_train.json", train)
  _dump(root / "lvis_v1_val.json", validation)
