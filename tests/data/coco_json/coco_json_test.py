"""The builder for COCO-format JSON: what it stores, and what it says about bad input."""

import copy
import json
import os
import sys
from pathlib import Path

import coco_files
import numpy as np
import pytest
from coco_files import CONTENT, HEIGHT, SQUARE, WIDTH, jpeg, write_segmentations

from rkd_jax.data import builder
from rkd_jax.data.coco_json import coco_json
from rkd_jax.data.coco_json.coco_json import Files
from rkd_jax.records import index as index_lib
from rkd_jax.records.sources import decode_image, open_source


@pytest.fixture
def folder(tmp_path):
  return coco_files.write(tmp_path)


def _files(folder, **more):
  return Files(folder / "train.json", folder / "images", **more)


def _build(folder, **settings):
  both = {"train": _files(folder), "validation": _files(folder)}
  lists = {"base": ("cat", "dog"), "novel": ("red fox",)}
  return builder.prepare(coco_json.CocoJson(data_dir=folder / "built", **(both | lists | settings)))


def test_training_keeps_base_boxes_and_validation_keeps_novel_ones_too(folder):
  _build(folder)
  train = open_source(folder / "built", "coco_json/plain", "train")
  assert train.class_names == ("cat", "dog", "red fox", "zebra")
  assert (train.base, train.novel) == (("cat", "dog"), ("red fox",))
  record = train[0]
  assert (record.image_id, record.filename) == (9, "a.jpg")
  assert decode_image(record).shape == (HEIGHT, WIDTH, 3)
  assert record.image == jpeg()
  np.testing.assert_allclose(record.boxes, [[1, 2, 11, 14], [4, 4, 32, 24]], atol=1e-5)
  assert record.classes.tolist() == [0, 0]
  assert record.is_crowd.tolist() == [False, True]
  assert record.object_ids.tolist() == [1, 3]
  np.testing.assert_allclose(record.areas[0], 90)
  assert len(train[1].boxes) == 0 and len(train) == 2

  validation = open_source(folder / "built", "coco_json/plain", "validation")
  assert validation[0].classes.tolist() == [0, 2, 0]
  assert validation.has_all_boxes and not train.has_all_boxes


def test_polygons_are_kept_to_the_last_decimal_and_run_lengths_are_not(folder):
  runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
  write_segmentations(folder, [SQUARE, [1.01, 2.22, 7, 7, 9, 2]], [SQUARE, [1, 2, 3, 4]], runs)
  _build(folder)
  record = open_source(folder / "built", "coco_json/plain", "validation")[0]
  cat, fox, crowd = record.polygons
  assert [polygon.ravel().tolist() for polygon in cat] == [SQUARE, [1.01, 2.22, 7, 7, 9, 2]]
  assert [polygon.ravel().tolist() for polygon in fox] == [SQUARE]  # a line encloses nothing
  assert crowd == () and record.is_crowd[2]


def test_a_file_of_boxes_alone_has_no_polygons_rather_than_empty_ones(folder):
  _build(folder)
  assert open_source(folder / "built", "coco_json/plain", "train")[0].polygons is None


def test_the_index_says_what_records_hold_without_reading_them(folder):
  files = _files(folder, captions=folder / "captions.json", tags=folder / "tags.json")
  _build(folder, train=files)
  source = open_source(folder / "built", "coco_json/plain", "train")
  assert index_lib.file_of(folder / "built/coco_json/plain/1.1.0", "train").exists()
  assert source.index.classes.tolist() == [0] and source.index.starts.tolist() == [0, 1, 1]
  assert source.index.num_labels.tolist() == [1, 2]
  assert source.index.heights.tolist() == [HEIGHT] * 2 and source.index.widths[0] == WIDTH
  assert source.image_counts == (1, 0, 0, 0) and source.frequencies is None


def test_labels_come_from_captions_and_tags(folder):
  files = _files(folder, captions=folder / "captions.json", tags=folder / "tags.json")
  _build(folder, train=files)
  source = open_source(folder / "built", "coco_json/plain", "train")
  tagged, captioned = source[0], source[1]
  assert (tagged.captions, tagged.labels.tolist()) == ((), [3])
  assert captioned.captions == ("Two dogs chase a red  fox.", "A category of its own")
  assert captioned.labels.tolist() == [1, 2]  # not the cat of "category"


def test_building_twice_reuses_and_other_settings_are_refused(folder):
  first, second = _build(folder), _build(folder)
  assert first.data_dir == second.data_dir
  with pytest.raises(ValueError, match=r"other files or settings.*Remove"):
    _build(folder, novel=())


def test_a_build_that_read_odd_values_otherwise_is_not_reused(folder):
  built = _build(folder)
  content = copy.deepcopy(CONTENT)
  content["annotations"][0]["iscrowd"] = "0"
  (folder / "train.json").write_text(json.dumps(content))
  metadata = Path(built.data_dir) / "metadata.json"
  stored = json.loads(metadata.read_text())
  for split in ("train", "validation"):
    stored["settings"][split]["json"] = builder.checksum(folder / "train.json")
  metadata.write_text(json.dumps(stored))
  with pytest.raises(ValueError, match=r"notes\..*iscrowd as text is None, asked for 1.*Remove"):
    _build(folder)


def test_an_unused_root_is_a_class_where_it_is_named(folder):
  content = copy.deepcopy(CONTENT)
  content["categories"] += [{"id": 1, "name": "animal", "supercategory": "none"}]
  for entry in content["categories"][:-1]:
    entry["supercategory"] = "animal"
  (folder / "train.json").write_text(json.dumps(content))
  both = {"train": _files(folder), "validation": _files(folder)}
  made = coco_json.CocoJson(data_dir=folder / "built", **both)
  assert "animal" not in made.splits["train"].class_names
  made = coco_json.CocoJson(data_dir=folder / "built", **both, novel=("animal ",))
  assert made.splits["validation"].class_names[0] == "animal"


def test_repair_clips_and_leaves_out_with_a_count(folder, monkeypatch, capsys):
  content = copy.deepcopy(CONTENT)
  content["annotations"][0]["bbox"] = [20, 2, 14, 5]
  content["annotations"][1]["bbox"] = [3, 3, 0, 5]
  content["annotations"][3]["bbox"] = []
  (folder / "train.json").write_text(json.dumps(content))
  with pytest.raises(SystemExit):
    _run(monkeypatch, folder)
  assert "has 3 problems" in capsys.readouterr().err
  _run(monkeypatch, folder, "--repair", "--novel=cat ")
  output = capsys.readouterr().out
  assert "train: 1 boxes clipped to the image" in output
  assert "train: 2 boxes without area left out" in output
  source = open_source(folder / "built", "coco_json/plain", "train")
  assert source.novel == ("cat",) and [len(record.boxes) for record in source] == [0, 0]


def test_limit_takes_the_first_images(folder):
  _build(folder, limit=1)
  source = open_source(folder / "built", "coco_json/plain", "train")
  assert [record.image_id for record in source] == [9]


@pytest.mark.parametrize(
  ("lists", "message"),
  [
    ({"base": ("cat", "Red Foxes")}, r"base classes names 'Red Foxes'.*Meant 'red fox'"),
    ({"novel": ("zebar",)}, r"novel classes names 'zebar'.*Meant 'zebra'"),
    ({"novel": ("cat", "red fox")}, r"\['cat'\] are in the list of base classes and of novel"),
    ({"base": ()}, r"no base class"),
    ({"limit": 0}, r"limit is 0"),
  ],
)
def test_bad_lists_are_named(folder, lists, message):
  with pytest.raises(ValueError, match=message):
    _build(folder, **lists)


def test_validation_must_have_the_same_categories(folder):
  content = copy.deepcopy(CONTENT)
  content["categories"].append({"id": 91, "name": "bear"})
  (folder / "other.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"other\.json has other categories.*\['bear'\]"):
    _build(folder, validation=Files(folder / "other.json", folder / "images"))


def test_a_truncated_jpeg_stops_the_build_and_names_its_file(folder):
  (folder / "images" / "a.jpg").write_bytes(jpeg()[:300])
  with pytest.raises(ValueError, match=r"images/a\.jpg \(image id 9 of .*--skip_bad_images"):
    _build(folder)


def test_a_truncated_jpeg_is_skipped_with_a_counted_warning_if_asked(folder, caplog):
  (folder / "images" / "a.jpg").write_bytes(jpeg()[:300])
  _build(folder, skip_bad_images=True)
  source = open_source(folder / "built", "coco_json/plain", "train")
  assert [record.image_id for record in source] == [4]
  messages = [record.getMessage() for record in caplog.records]
  assert any("1 so far" in text and "a.jpg" in text for text in messages)


def test_nothing_but_bad_images_is_an_error(folder):
  for name in ("a.jpg", "sub/b.jpg"):
    (folder / "images" / name).write_bytes(b"no image")
  with pytest.raises(ValueError, match="none of its 2 images"):
    _build(folder, skip_bad_images=True)


def _run(monkeypatch, folder, *arguments):
  files = [f"--train_json={folder / 'train.json'}", f"--train_images={folder / 'images'}"]
  monkeypatch.setattr(
    sys, "argv", ["coco_json", f"--data_dir={folder / 'built'}", *files, *arguments]
  )
  coco_json.main()


def test_dry_run_counts_and_stores_nothing(folder, monkeypatch, capsys):
  _run(monkeypatch, folder, "--novel=red fox,zebra", "--dry_run")
  output = capsys.readouterr().out
  assert "train: 2 images, 1 with boxes, 0 with labels; 2 boxes of 1 classes: {'cat': 2}" in output
  assert "No problem found" in output
  assert not (folder / "built").exists()


def test_dry_run_reports_the_first_problem_without_a_traceback(folder, monkeypatch, capsys):
  (folder / "images" / "sub" / "b.jpg").write_bytes(jpeg()[:200])
  with pytest.raises(SystemExit) as stop:
    _run(monkeypatch, folder, "--dry_run")
  captured = capsys.readouterr()
  assert stop.value.code == 1 and "b.jpg" in captured.err


def _rename(folder, old, new):
  (folder / "images" / old).rename(folder / "images" / new)
  content = json.loads((folder / "train.json").read_text())
  for image in content["images"]:
    image["file_name"] = new if image["file_name"] == old else image["file_name"]
  (folder / "train.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["café [2024] *.jpg", "a?b;c d.jpg"])
def test_images_have_any_name_that_a_file_can_have(folder, name):
  _rename(folder, "a.jpg", name)
  _build(folder)
  record = open_source(folder / "built", "coco_json/plain", "train")[0]
  assert record.filename == name and record.image == jpeg()


@pytest.mark.parametrize("name", ["missing.jpg", "pipe.jpg", "folder.jpg"])
def test_what_is_no_file_is_named(folder, name):
  os.mkfifo(folder / "images" / "pipe.jpg")
  (folder / "images" / "folder.jpg").mkdir()
  content = json.loads((folder / "train.json").read_text())
  content["images"][0]["file_name"] = name
  (folder / "train.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"Cannot read .*train\.json.*check that folder"):
    _build(folder)


def test_large_images_are_bad_ones(folder):
  with pytest.raises(ValueError, match="raise --max_pixels"):
    _build(folder, max_pixels=HEIGHT * WIDTH - 1)
  _build(folder, max_pixels=HEIGHT * WIDTH)
  with pytest.raises(ValueError, match="max_pixels is 768, asked for None"):
    _build(folder)
