"""Objects365 for evaluation: all classes novel, better names where they are given."""

import json

import numpy as np
import pytest
from official_files import HEIGHT, WIDTH, write_image

from rkd_jax.data import builder
from rkd_jax.data.objects365.objects365 import Objects365
from rkd_jax.records.sources import open_source

CONTENT = {
  "images": [
    {"id": 900, "file_name": "images/v1/patch8/a.jpg", "height": HEIGHT, "width": WIDTH},
    {"id": 12, "file_name": "images/v2/patch16/b.jpg", "height": HEIGHT, "width": WIDTH},
  ],
  "annotations": [
    {"id": 1, "image_id": 900, "category_id": 14, "bbox": [1, 2, 10, 12], "iscrowd": 1},
    {"id": 2, "image_id": 900, "category_id": 1, "bbox": [30.5, 20.25, 40, 30], "iscrowd": 0},
    {"id": 3, "image_id": 12, "category_id": 1, "bbox": [5, 5, 0, 3], "iscrowd": 0},
  ],
  "categories": [{"id": 14, "name": "Handbag/Satchel"}, {"id": 1, "name": "Person"}],
}


@pytest.fixture
def root(tmp_path):
  (tmp_path / "val.json").write_text(json.dumps(CONTENT))
  for image in CONTENT["images"]:
    write_image(tmp_path / image["file_name"])
  return tmp_path


def _make(root, fixes=None, **settings):
  if fixes is not None:
    (root / "fixes.csv").write_text(fixes)
    settings["name_fixes"] = root / "fixes.csv"
  return Objects365(
    data_dir=root / "built",
    annotations=root / "val.json",
    images=root,
    **{"config": "plain"} | settings,
  )


def test_all_classes_are_novel_and_all_boxes_are_there(root):
  built = builder.prepare(_make(root))
  assert "2 images (official: 80,000), 2 classes (official: 365)" in built.describe()
  source = open_source(root / "built", "objects365/plain", "validation")
  assert source.class_names == source.novel == ("Person", "Handbag/Satchel")
  assert source.base == () and source.has_all_boxes and source.image_counts is None
  first, second = source
  assert first.filename == "images/v1/patch8/a.jpg" and first.is_crowd.tolist() == [True, False]
  assert first.classes.tolist() == [1, 0] and len(second.boxes) == 0
  np.testing.assert_allclose(first.boxes, [[1, 2, 11, 14], [30.5, 20.25, 56, 40]], atol=1e-5)


def test_names_are_replaced(root):
  builder.prepare(_make(root, "14,Handbag/Satchel,handbag\n"))
  source = open_source(root / "built", "objects365/plain", "validation")
  assert source.class_names == source.novel == ("Person", "handbag")


@pytest.mark.parametrize(
  "fixes, message",
  [
    ("14,Handbag,handbag", r"fixes\.csv, line 1: .*expected 'category id,official name"),
    ("1,Person,man\n15,Plate,plate", "line 2"),
    ("1,Person", "line 1"),
    ("14,Handbag/Satchel,Person", r"\['Person'\] would name several"),
  ],
)
def test_fixes_that_do_not_fit_are_refused(root, fixes, message):
  with pytest.raises(ValueError, match=message):
    _make(root, fixes)
