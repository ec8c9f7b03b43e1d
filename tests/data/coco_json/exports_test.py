"""Files in the shapes that annotation tools write: all of them say the same two boxes."""

import json

import coco_files
import pytest
from coco_files import HEIGHT, WIDTH

from rkd_jax.data.coco_json import annotations
from rkd_jax.records import class_names

RECTANGLE = [1, 2, 11, 2, 11, 14, 1, 14]
SIZE = {"width": WIDTH, "height": HEIGHT}
ROOT = "category 0 (pets) left out, the root of the others, without annotation"


def _annotation(number, image, category, bbox, **more):
  area = float(bbox[2]) * float(bbox[3])
  start = {"id": number, "image_id": image, "category_id": category}
  return {**start, "bbox": bbox, "area": area, "iscrowd": 0, **more}


def _content(images, boxes, categories, **more):
  (first, second), (one, two) = images, boxes
  return {
    "info": {},
    "licenses": [{"name": "", "id": 0, "url": ""}],
    "images": [{**first, **SIZE}, {**second, **SIZE}],
    "annotations": [one, two],
    "categories": categories,
    **more,
  }


def _images(first, second, **more):
  names = ((first, "a.jpg"), (second, "sub/b.jpg"))
  return [{"id": number, "file_name": name, **more} for number, name in names]


# The content of the file, and what is noted of it.
EXPORTS = {
  "Roboflow": (
    _content(
      _images(0, 1, license=1, date_captured="2026-01-31T09:30:15+00:00", extra={"name": "a.jpg"}),
      [
        _annotation(0, 0, 1, [1, 2, "10.0000", "12.0000"], segmentation=[]),
        _annotation(1, 1, 2, [0, 0, "8.0000", "8.0000"], segmentation=[]),
      ],
      [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
      ],
    ),
    {"annotations with bbox numbers as text": 2, ROOT: 1},
  ),
  "Roboflow, the project called as a class": (
    _content(
      _images(0, 1),
      [_annotation(0, 0, 1, [1, 2, 10, 12]), _annotation(1, 1, 2, [0, 0, 8, 8])],
      [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
        {"id": 2, "name": "dog", "supercategory": "cat"},
      ],
    ),
    {ROOT.replace("pets", "cat"): 1},
  ),
  "CVAT": (
    _content(
      _images(1, 2, license=0, flickr_url="", coco_url="", date_captured=0),
      [
        _annotation(
          *(1, 1, 1, [1.0, 2.0, 10.0, 12.0]),
          segmentation=[RECTANGLE],
          attributes={"occluded": False, "rotation": 0.0},
        ),
        _annotation(
          *(2, 2, 2, [0.0, 0.0, 8.0, 8.0]),
          segmentation={"counts": [0, 8, 16], "size": [HEIGHT, WIDTH]},
          attributes={"occluded": False},
        ),
      ],
      [
        {"id": 1, "name": "cat", "supercategory": ""},
        {"id": 2, "name": "dog", "supercategory": ""},
      ],
    ),
    {},
  ),
  "VIA 2": (
    _content(
      _images(0, 1, license=1, date_captured=""),
      [
        _annotation(0, "0", 1, [1, 2, 10, 12], segmentation=RECTANGLE),
        _annotation(1, "1", 2, [0, 0, 8, 8], segmentation=[0, 0, 8, 0, 8, 8, 0, 8]),
      ],
      [
        {"supercategory": "animal", "id": 1, "name": "cat"},
        {"supercategory": "animal", "id": 2, "name": "dog"},
        {"supercategory": "animal", "id": 1, "name": "cat"},
      ],
    ),
    {
      "equal copies of categories left out": 1,
      "annotations with image_id as text": 2,
      "annotations with segmentation as one flat list": 2,
    },
  ),
  "Label Studio on Windows": (
    _content(
      [{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "sub\\b.jpg"}],
      [
        _annotation(0, 0, 0, [1.0, 2.0, 10.0, 12.0], ignore=0, segmentation=[]),
        _annotation(1, 1, 1, [0.0, 0.0, 8.000000000000002, 8.0], ignore=0, segmentation=[]),
      ],
      [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    ),
    {"file names with backslashes, taken for slashes": 1},
  ),
  "Labelbox": (
    _content(
      _images(0, 1, license=0, flickr_url="", coco_url="https://storage.example.com/a.jpg"),
      [
        _annotation(0, 0, 1, [1.0, 2.0, 10.0, 12.0], segmentation=[RECTANGLE]),
        _annotation(10000, 1, 2, [0.0, 0.0, 8.0, 8.0], segmentation=[[0, 0, 8, 0, 8, 8, 0, 8]]),
      ],
      [
        {"id": 1, "name": "cat", "supercategory": "all", "isthing": 1},
        {"id": 2, "name": "dog", "supercategory": "all", "isthing": 1},
      ],
      info={"image_root": "."},
    ),
    {},
  ),
  "FiftyOne": (
    _content(
      _images(1, 2, license=None, coco_url=None),
      [_annotation(1, 1, 0, [1.0, 2.0, 10.0, 12.0]), _annotation(2, 2, 1, [0.0, 0.0, 8.0, 8.0])],
      [
        {"id": 0, "name": "cat", "supercategory": None},
        {"id": 1, "name": "dog", "supercategory": None},
      ],
    ),
    {},
  ),
  "SAHI": (
    _content(
      _images(1, 2),
      [
        _annotation(1, 1, 0, [1, 2, 10, 12], segmentation=[]),
        _annotation(2, 2, 1, [0, 0, 8, 8], segmentation=[]),
      ],
      [
        {"id": 0, "name": "cat", "supercategory": "cat"},
        {"id": 1, "name": "dog", "supercategory": "dog"},
      ],
    ),
    {},
  ),
  "make-sense": (
    _content(
      _images(1, 2),
      [
        _annotation(0, 1, 1, [1, 2, 10, 12], segmentation=[RECTANGLE]),
        _annotation(1, 2, 2, [0, 0, 8, 8], segmentation=[[0, 0, 8, 0, 8, 8, 0, 8]]),
      ],
      [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
      info={"description": "my-project-name"},
    ),
    {},
  ),
}


@pytest.mark.parametrize(("content", "notes"), EXPORTS.values(), ids=EXPORTS.keys())
def test_exports_of_tools_are_read(tmp_path, content, notes):
  coco_files.write(tmp_path)
  path = tmp_path / "train.json"
  path.write_text(json.dumps(content))
  found = annotations.load_annotations(path, tmp_path / "images")
  assert found.class_names == ("cat", "dog") and found.notes == notes
  first, second = found.images
  assert [image.path.exists() for image in found.images] == [True, True]
  assert first.boxes.tolist() == [[1, 2, 11, 14]] and second.boxes.round(9).tolist() == [
    [0, 0, 8, 8]
  ]
  assert (first.classes.tolist(), second.classes.tolist()) == ([0], [1])
  assert first.areas.tolist() == [120] and not first.is_crowd[0] and not second.is_crowd[0]
  segmented = content["annotations"][0].get("segmentation")
  assert [part.ravel().tolist() for part in first.polygons[0]] == ([RECTANGLE] if segmented else [])
  # Embeddings of the file's classes have the same names.
  assert class_names.load_class_names(path) == found.class_names
