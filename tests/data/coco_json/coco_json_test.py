"""The builder for COCO-format JSON: what it stores, and what it says about bad input."""

import copy
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from rkd_jax.data.coco_json import annotations, coco_json
from rkd_jax.data.coco_json.coco_json import Files
from rkd_jax.records import index as index_lib
from rkd_jax.records.sources import decode_image, open_source

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


def _jpeg(height=HEIGHT, width=WIDTH):
  pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "JPEG")
  return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "images" / "sub").mkdir(parents=True)
  (tmp_path / "images" / "a.jpg").write_bytes(_jpeg())
  (tmp_path / "images" / "sub" / "b.jpg").write_bytes(_jpeg())
  (tmp_path / "train.json").write_text(json.dumps(CONTENT))
  (tmp_path / "captions.json").write_text(
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
  (tmp_path / "tags.json").write_text(json.dumps({"a.jpg": ["zebra"]}))
  return tmp_path


def _files(folder, **more):
  return Files(folder / "train.json", folder / "images", **more)


def _build(folder, **settings):
  both = {"train": _files(folder), "validation": _files(folder)}
  lists = {"base": ("cat", "dog"), "novel": ("red fox",)}
  return coco_json.build(folder / "built", **(both | lists | settings))


def test_training_keeps_base_boxes_and_validation_keeps_novel_ones_too(folder):
  _build(folder)
  train = open_source(folder / "built", "coco_json/plain", "train")
  assert train.class_names == ("cat", "dog", "red fox", "zebra")
  assert (train.base, train.novel) == (("cat", "dog"), ("red fox",))
  record = train[0]
  assert (record.image_id, record.filename) == (9, "a.jpg")
  assert decode_image(record).shape == (HEIGHT, WIDTH, 3)
  assert record.image == _jpeg()
  np.testing.assert_allclose(record.boxes, [[1, 2, 11, 14], [4, 4, 32, 24]], atol=1e-5)
  assert record.classes.tolist() == [0, 0]
  assert record.is_crowd.tolist() == [False, True]
  assert record.object_ids.tolist() == [1, 3]
  np.testing.assert_allclose(record.areas[0], 90)
  assert len(train[1].boxes) == 0 and len(train) == 2

  validation = open_source(folder / "built", "coco_json/plain", "validation")
  assert validation[0].classes.tolist() == [0, 2, 0]
  assert validation.has_all_boxes and not train.has_all_boxes


SQUARE = [2.5, 3.1, 10, 3.1, 10, 9.99, 2.5, 9.99]


def _with_segmentations(folder, *segmentations):
  content = copy.deepcopy(CONTENT)
  for entry, segmentation in zip(content["annotations"], segmentations):
    entry["segmentation"] = segmentation
  (folder / "train.json").write_text(json.dumps(content))


def test_polygons_are_kept_to_the_last_decimal_and_run_lengths_are_not(folder):
  runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
  _with_segmentations(folder, [SQUARE, [1.01, 2.22, 7, 7, 9, 2]], [SQUARE, [1, 2, 3, 4]], runs)
  _build(folder)
  record = open_source(folder / "built", "coco_json/plain", "validation")[0]
  cat, fox, crowd = record.polygons
  assert [polygon.ravel().tolist() for polygon in cat] == [SQUARE, [1.01, 2.22, 7, 7, 9, 2]]
  assert [polygon.ravel().tolist() for polygon in fox] == [SQUARE]  # a line encloses nothing
  assert crowd == () and record.is_crowd[2]


def test_a_file_of_boxes_alone_has_no_polygons_rather_than_empty_ones(folder):
  _build(folder)
  assert open_source(folder / "built", "coco_json/plain", "train")[0].polygons is None


@pytest.mark.parametrize(
  "segmentation", [[[1, 2, 3]], [[1, 2, "3", 4, 5, 6]], [[1, 2, 3, float("nan"), 5, 6]], "abc", [7]]
)
def test_bad_polygons_are_named(folder, segmentation):
  _with_segmentations(folder, [SQUARE], segmentation)
  with pytest.raises(ValueError, match=r"annotation 2 of image 9 \(a\.jpg\): segmentation\[0\] is"):
    coco_json.CocoJson(data_dir=folder / "built", train=_files(folder))


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


def test_limit_takes_the_first_images(folder):
  _build(folder, limit=1)
  source = open_source(folder / "built", "coco_json/plain", "train")
  assert [record.image_id for record in source] == [9]


def _annotation(**changes):
  return lambda content: content["annotations"][1].update(changes)


def _no_key(part, key):
  return lambda content: content[part][0].pop(key)


def _copy_of(part):
  return lambda content: content[part].append(content[part][0])


BAD_CONTENT = {
  "no images key": (lambda c: c.pop("images"), r"train\.json has no 'images'"),
  "no annotations key": (lambda c: c.pop("annotations"), r"train\.json has no 'annotations'"),
  "no categories key": (lambda c: c.pop("categories"), r"train\.json has no 'categories'"),
  "images no list": (lambda c: c.update(images={}), r"'images' is a dict"),
  "no images": (lambda c: c.update(images=[], annotations=[]), r"'images' is empty"),
  "no categories": (lambda c: c.update(categories=[], annotations=[]), r"'categories' is empty"),
  "image without size": (_no_key("images", "width"), r"images\[0\] has no 'width'"),
  "annotation without box": (_no_key("annotations", "bbox"), r"annotations\[0\] has no 'bbox'"),
  "category without name": (_no_key("categories", "name"), r"categories\[0\] has no 'name'"),
  "unknown image": (_annotation(image_id=5), r"annotation 2 .*image 5, .*add the image"),
  "unknown category": (_annotation(category_id=5), r"annotation 2 .*category 5, .*add the cat"),
  "image id twice": (_copy_of("images"), r"image id 9 occurs twice"),
  "annotation id twice": (_copy_of("annotations"), r"annotation id 1 occurs twice"),
  "category id twice": (_copy_of("categories"), r"category id 90 occurs twice"),
  "category name twice": (
    lambda c: c["categories"][0].update(name="cat"),
    r"category name 'cat' occurs twice",
  ),
  "image id too large": (lambda c: c["images"][0].update(id=2**31), r"id is 2147483648"),
  "image id no number": (lambda c: c["images"][0].update(id="a"), r"images\[0\]: id is 'a'"),
  "image of no height": (lambda c: c["images"][0].update(height=0), r"a\.jpg\): height is 0"),
  "box right of the image": (
    _annotation(bbox=[20, 2, 14, 5]),
    r"annotation 2 of image 9 \(a\.jpg\): bbox \[20, 2, 14, 5\].* 2 pixels out .*32 x 24",
  ),
  "box left of the image": (_annotation(bbox=[-1.5, 2, 9, 5]), r"1\.5 pixels out"),
  "box beside the image": (_annotation(bbox=[32, 2, 0.5, 5]), r"annotation 2 .*out of the image"),
  "box NaN": (_annotation(bbox=[1, 2, float("nan"), 5]), r"annotation 2 .*not finite"),
  "box infinite": (_annotation(bbox=[1, 2, float("inf"), 5]), r"annotation 2 .*not finite"),
  "box of no width": (_annotation(bbox=[1, 2, 0, 5]), r"annotation 2 .*size 0 x 5"),
  "box of negative height": (_annotation(bbox=[1, 2, 3, -5]), r"annotation 2 .*size 3 x -5"),
  "box of three numbers": (_annotation(bbox=[1, 2, 3]), r"annotation 2 .*expected \[x, y,"),
  "box of text": (_annotation(bbox=[1, 2, 3, "4"]), r"annotation 2 .*as numbers"),
  "area NaN": (_annotation(area=float("nan")), r"annotation 2 .*area is nan"),
  "file missing": (
    lambda c: c["images"][1].update(file_name="c.jpg"),
    r"images/c\.jpg \(image id 4 of .*train\.json\).*check that folder",
  ),
  "file of another size": (
    lambda c: c["images"][1].update(width=33),
    r"b\.jpg .*image id 4.* is 32 x 24 .*JSON says 33 x 24",
  ),
}


@pytest.mark.parametrize(("break_it", "message"), BAD_CONTENT.values(), ids=BAD_CONTENT.keys())
def test_bad_content_is_named(folder, break_it, message):
  content = copy.deepcopy(CONTENT)
  break_it(content)
  (folder / "train.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    coco_json.CocoJson(data_dir=folder / "built", train=_files(folder)).check()


def test_rounding_outside_the_image_is_clipped(folder):
  content = copy.deepcopy(CONTENT)
  content["annotations"][1]["bbox"] = [-1, -0.5, 34, 25.5]
  (folder / "train.json").write_text(json.dumps(content))
  image = annotations.load_annotations(folder / "train.json", folder).images[0]
  assert image.boxes[1].tolist() == [0, 0, WIDTH, HEIGHT]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, r"Cannot read .*train\.json: No such file"),
    (b"", r"train\.json is not valid JSON: line 1, column 1"),
    (b'{\n "images": [,]}', r"line 2, column 13"),
    (b"[1, 2]", r"train\.json has no 'categories'"),
    (b'{"images": "\xff"}', r"train\.json is not a text file"),
  ],
)
def test_bad_json_is_named(folder, text, message):
  (folder / "train.json").unlink()
  if text is not None:
    (folder / "train.json").write_bytes(text)
  with pytest.raises(ValueError, match=message):
    _build(folder)


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


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ({"c.jpg": ["cat"]}, r"tags\.json: 'c\.jpg' is not the file_name"),
    ({"a.jpg": ["cats"]}, r"tags\.json, 'a\.jpg' names 'cats'.*Meant 'cat'"),
    ([], r"tags\.json: expected an object"),
  ],
)
def test_bad_tags_are_named(folder, content, message):
  (folder / "tags.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    _build(folder, train=_files(folder, tags=folder / "tags.json"))


def test_captions_of_other_images_are_noticed(folder):
  (folder / "captions.json").write_text('{"annotations": [{"image_id": 1, "caption": "x"}]}')
  with pytest.raises(ValueError, match=r"captions\.json: no caption belongs"):
    _build(folder, train=_files(folder, captions=folder / "captions.json"))


def test_a_truncated_jpeg_stops_the_build_and_names_its_file(folder):
  (folder / "images" / "a.jpg").write_bytes(_jpeg()[:300])
  with pytest.raises(ValueError, match=r"images/a\.jpg \(image id 9 of .*--skip_bad_images"):
    _build(folder)


def test_a_truncated_jpeg_is_skipped_with_a_counted_warning_if_asked(folder, caplog):
  (folder / "images" / "a.jpg").write_bytes(_jpeg()[:300])
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
  (folder / "images" / "sub" / "b.jpg").write_bytes(_jpeg()[:200])
  with pytest.raises(SystemExit) as stop:
    _run(monkeypatch, folder, "--dry_run")
  captured = capsys.readouterr()
  assert stop.value.code == 1 and "b.jpg" in captured.err
