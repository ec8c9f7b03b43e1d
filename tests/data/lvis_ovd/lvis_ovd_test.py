"""OV-LVIS from official files: no rare boxes in training, all that federated evaluation needs."""

import json
import sys

import numpy as np
import official_files
import pytest

from rkd_jax.data import builder
from rkd_jax.data.lvis_ovd import lvis_ovd
from rkd_jax.records.sources import open_source, select

# By descending id, as a file may have them.
CATEGORIES = [
  {"id": 3, "name": "cat", "frequency": "f", "synset": "cat.n.01"},
  {"id": 2, "name": "bat_(animal)", "frequency": "r", "synset": "bat.n.01"},
  {"id": 1, "name": "awning", "frequency": "c", "synset": "awning.n.01"},
]


@pytest.fixture
def root(tmp_path):
  official_files.write_lvis(tmp_path / "lvis", tmp_path / "coco")
  return tmp_path


def _build(root):
  folders = {"lvis": root / "lvis", "coco": root / "coco", "data_dir": root / "built"}
  return builder.prepare(lvis_ovd.LvisOvd(**folders))


def _open(root, split):
  return open_source(root / "built", "lvis_ovd/plain", split)


def test_training_has_no_box_of_a_rare_class(root):
  _build(root)
  train = _open(root, "train")
  assert train.class_names == ("aerosol_can", "bat_(animal)", "cat", "zoo")
  assert (train.base, train.novel) == (("aerosol_can", "cat", "zoo"), ("bat_(animal)",))
  assert train.frequencies == ("c", "r", "f", "f") and train.image_counts == (1, 0, 2, 0)
  first, second, empty = train
  assert first.filename == "train2017/000000000009.jpg"
  assert first.classes.tolist() == [0, 2] and second.classes.tolist() == [2]
  assert len(empty.boxes) == 0 and len(select(train, "boxes")) == 2
  assert [len(own) for own in first.polygons] == [2, 1]
  assert first.polygons[0][0].ravel().tolist() == official_files.TRIANGLE
  # Past the border: the box is cut, the polygon is not, as in the original.
  np.testing.assert_allclose(second.boxes, [[0, 0, 56, 40]], atol=1e-4)
  assert second.polygons[0][0].ravel().tolist() == [0, 0, 57.5, 0, 57.5, 40]


def test_the_federated_labels_are_kept_as_classes(root):
  _build(root)
  train, validation = _open(root, "train"), _open(root, "validation")
  assert [record.negative_labels.tolist() for record in train] == [[1], [3, 0], []]
  assert [record.not_exhaustive_labels.tolist() for record in train] == [[2], [], []]
  assert [record.negative_labels.tolist() for record in validation] == [[0], []]
  assert [record.not_exhaustive_labels.tolist() for record in validation] == [[], [2]]


def test_validation_has_all_classes_and_images_of_either_folder(root):
  _build(root)
  validation = _open(root, "validation")
  assert [record.filename.split("/")[0] for record in validation] == ["val2017", "train2017"]
  assert [record.classes.tolist() for record in validation] == [[1, 2], [2]]
  assert validation.has_all_boxes


def _run(monkeypatch, root, *flags):
  folders = [f"--data_dir={root / 'built'}", f"--lvis={root / 'lvis'}", f"--coco={root / 'coco'}"]
  monkeypatch.setattr(sys, "argv", ["lvis_ovd", *folders, *flags])
  lvis_ovd.main()


def test_dry_run_counts_compares_and_stores_nothing(root, monkeypatch, capsys):
  _run(monkeypatch, root, "--dry_run")
  output = capsys.readouterr().out
  assert "lvis_v1_train.json is not the official file, or cut: 3 images (official: 100,170), " in (
    output
  )
  assert "1 rare classes (official: 337), 3 common and frequent classes (official: 866)" in output
  assert "train: 3 images, 2 with boxes, 0 with labels; 3 boxes of 2 classes" in output
  assert "No problem found" in output and not (root / "built").exists()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda c: c["images"][1].pop("neg_category_ids"),
      r"lvis_v1_train\.json: image 25 .* has no 'neg_category_ids'",
    ),
    (
      lambda c: c["images"][0].update(not_exhaustive_category_ids=[3, 99]),
      r"image 9 .*: not_exhaustive_category_ids has \[99\]",
    ),
    (lambda c: c["images"][0].pop("coco_url"), r"image 9 .* has no 'coco_url'"),
    (
      lambda c: c["categories"][1].update(frequency="x"),
      r"lvis_v1_train\.json: category 2 \(bat_\(animal\)\) has frequency 'x'",
    ),
    (
      lambda c: c["categories"][3].update(name="zebra"),
      r"lvis_v1_val\.json has other categories than .*train\.json",
    ),
    (
      lambda c: c["annotations"][0].update(segmentation=[[1, 2, None, 4, 5, 6]]),
      r"annotation 1 of image 9 .*segmentation\[0\]",
    ),
  ],
)
def test_bad_files_are_named(root, change, message):
  path = root / "lvis/lvis_v1_train.json"
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    _build(root)


def test_the_rare_ones_are_novel():
  classes = lvis_ovd.of_categories(CATEGORIES, "lvis.json")
  assert classes["frequencies"] == list("frc")
  assert (classes["base"], classes["novel"]) == (["cat", "awning"], ["bat_(animal)"])


def test_synsets_come_by_ascending_id(tmp_path):
  (tmp_path / "lvis.json").write_text(json.dumps({"categories": CATEGORIES}))
  entries = lvis_ovd.load_synsets(tmp_path / "lvis.json")
  assert [entry["name"] for entry in entries] == ["awning", "bat_(animal)", "cat"]
  assert [entry["synset"] for entry in entries] == ["awning.n.01", "bat.n.01", "cat.n.01"]


@pytest.mark.parametrize(
  "change, message",
  [
    ({"synset": None}, r"lvis\.json: category 2 \(bat_\(animal\)\) has synset None"),
    ({"frequency": "x"}, r"lvis\.json: category 2 \(bat_\(animal\)\) has frequency 'x'"),
  ],
)
def test_what_is_missing_is_named(tmp_path, change, message):
  categories = [CATEGORIES[0], CATEGORIES[1] | change]
  (tmp_path / "lvis.json").write_text(json.dumps({"categories": categories}))
  with pytest.raises(ValueError, match=message):
    lvis_ovd.of_categories(lvis_ovd.load_synsets(tmp_path / "lvis.json"), "lvis.json")
