"""Two pictures with annotations in COCO format, with captions and tags."""

import copy
import io
import json

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32

# Category ids have gaps and are not in order: classes are cat 0, dog 1, red fox 2, zebra 3.
CONTENT = {
  "images": [
    {"id": 9, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH},
    {"id": 4, "file_name": "sub/b.jpg", "height": HEIGHT, "width": WIDTH},
  ],
  "annotations": [
    {"id": 1, "image_id": 9, "category_id": 17, "bbox": [1, 2, 10, 12], "area": 90.0},
    {"id": 2, "image_id": 9, "category_id": 20, "bbox": [0, 0, 8, 8]},
    {"id": 3, "image_id": 9, "category_id": 17, "bbox": [4, 4, 28.5, 20.5], "iscrowd": 1},
    {"id": 4, "image_id": 9, "category_id": 90, "bbox": [3, 3, 5, 5]},
  ],
  "categories": [
    {"id": 90, "name": "zebra"},
    {"id": 17, "name": "cat"},
    {"id": 18, "name": "dog"},
    {"id": 20, "name": "red fox"},
  ],
}
SQUARE = [2.5, 3.1, 10, 3.1, 10, 9.99, 2.5, 9.99]


def jpeg(height=HEIGHT, width=WIDTH):
  pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "JPEG")
  return buffer.getvalue()


def write(folder):
  """Writes the files; returns the folder."""
  (folder / "images" / "sub").mkdir(parents=True)
  (folder / "images" / "a.jpg").write_bytes(jpeg())
  (folder / "images" / "sub" / "b.jpg").write_bytes(jpeg())
  (folder / "train.json").write_text(json.dumps(CONTENT))
  (folder / "captions.json").write_text(
    json.dumps(
      {
        "annotations": [
          {"image_id": 4, "caption": "Two dogs chase a red  fox."},
          {"image_id": 4, "caption": "A category of its own"},
          {"image_id": 77, "caption": "Another picture"},
        ]
      }
    )
  )
  (folder / "tags.json").write_text(json.dumps({"a.jpg": ["zebra"]}))
  return folder


def write_segmentations(folder, *segmentations):
  """Gives the first annotations these."""
  content = copy.deepcopy(CONTENT)
  for entry, segmentation in zip(content["annotations"], segmentations):
    entry["segmentation"] = segmentation
  (folder / "train.json").write_text(json.dumps(content))
