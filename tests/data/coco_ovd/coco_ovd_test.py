"""OV-COCO from official files: what is kept, counted by hand, and what bad files say."""

import json
import sys

import numpy as np
import official_files
import pytest

from rkd_jax.data import builder
from rkd_jax.data.coco_ovd import coco_ovd
from rkd_jax.records.sources import decode_image, open_source, select


@pytest.fixture
def coco(tmp_path):
  official_files.write_coco(tmp_path / "coco")
  return tmp_path / "coco"


def _build(coco, **settings):
  made = coco_ovd.CocoOvd(coco=coco, data_dir=coco.parent / "built", **settings)
  return builder.prepare(made)


def _open(coco, split):
  return open_source(coco.parent / "built", "coco_ovd/plain", split)


def _names(source, numbers):
  return [source.class_names[number] for number in numbers]


def test_training_has_all_images_with_base_boxes_and_caption_labels(coco):
  _build(coco)
  train = _open(coco, "train")
  assert (len(train.class_names), len(train.base), len(train.novel)) == (80, 48, 17)
  assert [record.image_id for record in train] == [9, 25, 30, 34]
  first, grey, cmyk, empty = train
  assert _names(train, first.classes) == ["person", "person"]
  assert first.is_crowd.tolist() == [False, True]
  np.testing.assert_allclose(first.boxes[0], [4.25, 5.5, 24.75, 30.01], atol=1e-4)
  assert [len(own) for own in first.polygons] == [1, 0]
  assert first.polygons[0][0].ravel().tolist() == official_files.TRIANGLE
  assert len(grey.boxes) == len(empty.boxes) == 0
  # A box past the border is cut there, one without width and a polygon of two corners are gone.
  np.testing.assert_allclose(cmyk.boxes, [[40, 10, 56, 30]], atol=1e-4)
  assert [polygon.ravel().tolist() for polygon in cmyk.polygons[0]] == [official_files.SQUARE]
  assert all(decode_image(record).shape == (40, 56, 3) for record in train)

  # "man\n" and "dogs" are not names; "stop sign" runs over no border but that of two captions.
  assert first.captions[:2] == ("A dog and a man", "Ein Mädchen, ein dog")
  assert _names(train, first.labels) == ["person", "stop sign", "dog"]
  assert _names(train, grey.labels) == []
  assert _names(train, cmyk.labels) == ["truck"]
  assert _names(train, empty.labels) == ["cup"]
  counts = dict(zip(train.class_names, train.image_counts))
  assert {name: count for name, count in counts.items() if count} == {"person": 1, "truck": 1}


def test_records_with_boxes_or_labels_are_selected(coco):
  _build(coco)
  train = _open(coco, "train")
  assert [record.image_id for record in select(train, "boxes")] == [9, 30]
  assert [record.image_id for record in select(train, "labels")] == [9, 30, 34]
  with pytest.raises(ValueError, match="none of the 4 records of coco_ovd/plain/train has pseudo"):
    select(train, "pseudo_boxes")


def test_validation_has_the_images_with_an_evaluated_box(coco):
  _build(coco)
  (only,) = validation = _open(coco, "validation")
  assert validation.has_all_boxes and only.image_id == 139
  assert _names(validation, only.classes) == ["person", "dog"]


def _run(monkeypatch, coco, *flags):
  arguments = [f"--data_dir={coco.parent / 'built'}", f"--coco={coco}", *flags]
  monkeypatch.setattr(sys, "argv", ["coco_ovd", *arguments])
  coco_ovd.main()


def test_dry_run_counts_compares_and_stores_nothing(coco, monkeypatch, capsys):
  _run(monkeypatch, coco, "--dry_run")
  output = capsys.readouterr().out
  assert (
    "instances_train2017.json is not the official file, or cut: 4 images (official: 118,287), "
    "2 images with a base box (official: 107,761)" in output
  )
  assert (
    "3 images (official: 5,000), 1 images with a box of the 65 classes (official: 4,8" in output
  )
  assert "train: 4 images, 2 with boxes, 3 with labels; 3 boxes of 2 classes" in output
  assert "train: 1 boxes clipped to the image" in output
  assert "train: 1 boxes without area left out" in output
  assert "train: 1 polygons of less than three corners left out" in output
  assert "No problem found" in output and not (coco.parent / "built").exists()


def test_limit_takes_the_first_images(coco, monkeypatch, capsys):
  _run(monkeypatch, coco, "--limit=1")
  assert "train: 1 images" in capsys.readouterr().out
  assert [record.image_id for record in _open(coco, "train")] == [9]


def _edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    (
      "instances_train2017",
      lambda c: c["images"].append(c["images"][0]),
      r"instances_train2017\.json: image id 9 occurs twice",
    ),
    (
      "instances_val2017",
      lambda c: c["annotations"].append(c["annotations"][1]),
      r"instances_val2017\.json: annotation id 2 occurs twice",
    ),
    (
      "instances_train2017",
      lambda c: c["categories"].pop(),
      r"instances_train2017\.json: .*toothbrush",
    ),
    (
      "instances_val2017",
      lambda c: c["categories"][5].update(name="coach"),
      r"instances_val2017\.json: .*80 of COCO.*\['bus', 'coach'\]",
    ),
    (
      "captions_train2017",
      lambda c: c["annotations"][0].pop("caption"),
      r"captions_train2017\.json: annotations\[0\] has no 'caption'",
    ),
  ],
)
def test_bad_files_are_named(coco, name, change, message):
  _edit(coco / f"annotations/{name}.json", change)
  with pytest.raises(ValueError, match=message):
    _build(coco)


def test_a_missing_image_is_named_with_its_id(coco, monkeypatch, capsys):
  (coco / "train2017/000000000030.jpg").unlink()
  with pytest.raises(SystemExit):
    _run(monkeypatch, coco, "--dry_run")
  error = capsys.readouterr().err
  assert "train2017/000000000030.jpg (image id 30 of" in error and "No such file" in error


def test_a_missing_file_is_named(coco):
  (coco / "annotations/captions_train2017.json").unlink()
  with pytest.raises(ValueError, match=r"Cannot read .*captions_train2017\.json"):
    _build(coco)
