"""COCO-format JSON as it is read, and what is said about bad content."""

import copy
import json

import coco_files
import numpy as np
import pytest
from coco_files import CONTENT, HEIGHT, SQUARE, WIDTH, write_segmentations

from rkd_jax.data.coco_json import annotations
from rkd_jax.data.coco_json.objects import LEFT_OUT


@pytest.fixture
def folder(tmp_path):
  return coco_files.write(tmp_path)


def _load(folder, **options):
  return annotations.load_annotations(folder / "train.json", folder / "images", **options)


def test_classes_are_in_the_order_of_their_ids(folder):
  content = _load(folder)
  assert content.class_names == ("cat", "dog", "red fox", "zebra")
  first, second = content.images
  assert (first.image_id, first.path) == (9, folder / "images/a.jpg") and len(second.boxes) == 0
  assert first.classes.tolist() == [0, 2, 0, 3] and first.is_crowd.tolist() == [0, 0, 1, 0]
  # The crowd's box is out by half a pixel.
  np.testing.assert_allclose(first.boxes[[0, 2]], [[1, 2, 11, 14], [4, 4, WIDTH, HEIGHT]])


def test_official_files_are_repaired_and_counted(folder):
  content = copy.deepcopy(CONTENT)
  content["annotations"][1]["bbox"] = [20, 2, 14, 5]
  content["annotations"][3]["bbox"] = [3, 3, 0, 5]
  (folder / "train.json").write_text(json.dumps(content))
  repaired = _load(folder, repair=True)
  assert repaired.images[0].boxes[1].tolist() == [20, 2, WIDTH, 7]
  assert repaired.repairs == {"boxes clipped to the image": 1, LEFT_OUT: 1}


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
  "images no list": (lambda c: c.update(images={}), r"'images' is {}, COCO format has a list"),
  "no images": (lambda c: c.update(images=[], annotations=[]), r"'images' is empty"),
  "no categories": (lambda c: c.update(categories=[], annotations=[]), r"'categories' is empty"),
  "image without size": (_no_key("images", "width"), r"image 9 \(a\.jpg\) has no 'width'"),
  "annotation without box": (
    _no_key("annotations", "bbox"),
    r"annotation 1 of image 9 .* has no 'bbox'",
  ),
  "category without name": (_no_key("categories", "name"), r"categories\[0\] has no 'name'"),
  "unknown image": (_annotation(image_id=5), r"annotation 2 .*image 5, .*add the image"),
  "unknown category": (_annotation(category_id=5), r"annotation 2 .*category 5, .*add the cat"),
  "image id twice": (_copy_of("images"), r"image id 9 occurs twice"),
  "annotation id twice": (_copy_of("annotations"), r"annotation id 1 occurs twice"),
  "category id twice": (
    lambda c: c["categories"].append({"id": 90, "name": "owl"}),
    r"category id 90 occurs twice, for 'zebra' and 'owl'",
  ),
  "category name twice": (
    lambda c: c["categories"][0].update(name="cat"),
    r"category name 'cat' occurs twice",
  ),
  "image id too large": (lambda c: c["images"][0].update(id=2**63), r"id is 9223372036854775808"),
  "image id no number": (lambda c: c["images"][0].update(id="a"), r"images\[0\]: id is 'a'"),
  "image of no height": (lambda c: c["images"][0].update(height=0), r"a\.jpg\): height is 0"),
  "box right of the image": (
    _annotation(bbox=[20, 2, 14, 5]),
    r"annotation 2 of image 9 \(a\.jpg\): bbox \[20, 2, 14, 5\].* 2 pixels out .*32 x 24",
  ),
  "box left of the image": (_annotation(bbox=[-1.5, 2, 9, 5]), r"1\.5 pixels out"),
  "box beside the image": (_annotation(bbox=[32, 2, 0.5, 5]), r"annotation 2 .*out of the image"),
  "box NaN": (_annotation(bbox=[1, 2, float("nan"), 5]), r"annotation 2 .*NaN.* finite"),
  "box infinite": (_annotation(bbox=[1, 2, float("inf"), 5]), r"annotation 2 .*Infinity"),
  "box of no width": (_annotation(bbox=[1, 2, 0, 5]), r"annotation 2 .*size 0 x 5"),
  "box of negative height": (_annotation(bbox=[1, 2, 3, -5]), r"annotation 2 .*size 3 x -5"),
  "box of three numbers": (_annotation(bbox=[1, 2, 3]), r"annotation 2 .*expected \[x, y,"),
  "box of text": (_annotation(bbox=[1, 2, 3, "4 px"]), r"annotation 2 .*as four finite numbers"),
  "area NaN": (_annotation(area=float("nan")), r"annotation 2 .*area is NaN"),
}


@pytest.mark.parametrize(("break_it", "message"), BAD_CONTENT.values(), ids=BAD_CONTENT.keys())
def test_bad_content_is_named(folder, break_it, message):
  content = copy.deepcopy(CONTENT)
  break_it(content)
  (folder / "train.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    _load(folder)


def test_rounding_outside_the_image_is_clipped(folder):
  content = copy.deepcopy(CONTENT)
  content["annotations"][1]["bbox"] = [-1, -0.5, 34, 25.5]
  (folder / "train.json").write_text(json.dumps(content))
  image = _load(folder).images[0]
  assert image.boxes[1].tolist() == [0, 0, WIDTH, HEIGHT]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, r"Cannot read .*train\.json: No such file"),
    (b"", r"train\.json is not valid JSON: line 1, column 1"),
    (b'{\n "images": [,]}', r"line 2, column 13"),
    (b"[1, 2]", r"train\.json is a list and has no 'categories'"),
    (b'{"images": "\xff"}', r"train\.json is not a text file"),
  ],
)
def test_bad_json_is_named(folder, text, message):
  (folder / "train.json").unlink()
  if text is not None:
    (folder / "train.json").write_bytes(text)
  with pytest.raises(ValueError, match=message):
    _load(folder)


@pytest.mark.parametrize(
  "segmentation",
  [[[1, 2, 3]], [[1, 2, "3 px", 4, 5, 6]], [[1, 2, 3, float("nan"), 5, 6]], "abc", [7]],
)
def test_bad_polygons_are_named(folder, segmentation):
  write_segmentations(folder, [SQUARE], segmentation)
  with pytest.raises(ValueError, match=r"annotation 2 of image 9 \(a\.jpg\): segmentation\[0\] is"):
    _load(folder)


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
    annotations.load_tags(folder / "tags.json", _load(folder))


def test_captions_of_other_images_are_noticed(folder):
  (folder / "captions.json").write_text('{"annotations": [{"image_id": 1, "caption": "x"}]}')
  with pytest.raises(ValueError, match=r"captions\.json: no caption belongs"):
    annotations.load_captions(folder / "captions.json", _load(folder))


def _bad_boxes(folder, count):
  content = copy.deepcopy(CONTENT)
  box = {"image_id": 4, "category_id": 17, "bbox": [0, 0, 99, 9]}
  content["annotations"] += [{**box, "id": 100 + number} for number in range(count)]
  content["annotations"][1]["bbox"] = [3, 3, 0, 5]
  content["images"][0]["file_name"] = ""
  (folder / "train.json").write_text(json.dumps(content))


def test_all_problems_of_a_file_are_in_one_report(folder):
  _bad_boxes(folder, 30)
  with pytest.raises(ValueError) as error:
    _load(folder)
  first, *lines = str(error.value).splitlines()
  assert first.endswith("train.json has 31 problems:") and len(lines) == 21
  assert "image 9 (images[0]): file_name is ''" in lines[0]
  # Nothing is said of the annotations of an image that is not known for its problem.
  assert "annotation 100 of image 4 (sub/b.jpg): bbox [0, 0, 99, 9]" in lines[1]
  assert lines[-1] == "  and 11 more: 11 of bbox"


def test_an_annotation_to_be_ignored_is_a_crowd(folder):
  content = copy.deepcopy(CONTENT)
  content["annotations"][0]["ignore"] = 1
  content["annotations"][2]["ignore"] = 1
  (folder / "train.json").write_text(json.dumps(content))
  found = _load(folder)
  assert found.images[0].is_crowd.tolist() == [1, 0, 1, 0]
  assert found.notes == {"annotations to be ignored, taken for crowds": 1}


def test_a_file_with_backslashes_is_found_under_either_name(folder):
  content = copy.deepcopy(CONTENT)
  content["images"][1]["file_name"] = "sub\\b.jpg"
  (folder / "train.json").write_text(json.dumps(content))
  (folder / "tags.json").write_text(json.dumps({"sub\\b.jpg": ["dog "]}))
  found = _load(folder)
  assert found.images[1].path == folder / "images/sub/b.jpg" and found.images[1].path.exists()
  assert annotations.load_tags(folder / "tags.json", found) == {4: ("dog",)}
  (folder / "images/sub\\b.jpg").write_bytes(b"")
  assert _load(folder).images[1].path == folder / "images/sub\\b.jpg"


def test_images_of_one_file_get_the_same_tags(folder):
  content = copy.deepcopy(CONTENT)
  content["images"][1]["file_name"] = "a.jpg"
  (folder / "train.json").write_text(json.dumps(content))
  found = _load(folder)
  assert found.notes == {"file names that several images have": 1}
  assert annotations.load_tags(folder / "tags.json", found) == {9: ("zebra",), 4: ("zebra",)}


def test_masks_as_run_lengths_are_counted(folder):
  runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
  write_segmentations(folder, runs, [SQUARE], runs)
  found = _load(folder)
  assert found.repairs == {"masks as run lengths left out": 1} and found.has_polygons
  assert [len(own) for own in found.images[0].polygons] == [0, 1, 0, 0]


def test_all_problems_of_tags_are_in_one_report(folder):
  content = {"a.jpg": ["cats", "dog"], "c.jpg": [], "sub/b.jpg": [["cat"]]}
  (folder / "tags.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"tags\.json has 3 problems") as error:
    annotations.load_tags(folder / "tags.json", _load(folder))
  assert "the tags of 'sub/b.jpg' are [['cat']], expected a list of names" in str(error.value)


def test_captions_may_have_ids_as_text(folder):
  entries = [{"image_id": "4", "caption": " a dog "}]
  (folder / "captions.json").write_text(json.dumps({"annotations": entries}))
  captions = annotations.load_captions(folder / "captions.json", _load(folder))
  assert captions == {9: (), 4: ("a dog",)}
