"""A table of malformed JSON: the right value, or an error that names the file and the entry."""

import copy
import gzip
import json

import coco_files
import pytest
from coco_files import CONTENT

from rkd_jax.data.coco_json import annotations
from rkd_jax.records import class_names

pytestmark = pytest.mark.faults

SOUND = json.dumps(CONTENT)
# Stands in the content for a piece of text that Python would not write.
HOLE = "@@@"


def _set(part, number, key, raw):
  """The file with `raw` for the value of a key of an entry; for the entry where `key` is None."""
  content = copy.deepcopy(CONTENT)
  if part is None:
    content[key] = HOLE
  elif key is None:
    content[part][number] = HOLE
  else:
    content[part][number][key] = HOLE
  return json.dumps(content).replace(f'"{HOLE}"', raw)


def _annotation(key, raw):
  return _set("annotations", 1, key, raw)


def _image(key, raw):
  return _set("images", 0, key, raw)


def _category(key, raw):
  return _set("categories", 1, key, raw)


def _without(part, key):
  content = copy.deepcopy(CONTENT)
  del content[part][1][key]
  return json.dumps(content)


TWO = r"annotation 2 of image 9 \(a\.jpg\)"
CATEGORY = r"categories\[1\]"
DEEP = "[" * 100_000 + "]" * 100_000
ONES = "1" * 400

REFUSED = {
  # Values of other types.
  "iscrowd 2": (_annotation("iscrowd", "2"), rf"{TWO}: iscrowd is 2, expected 0 or 1"),
  "iscrowd -1": (_annotation("iscrowd", "-1"), rf"{TWO}: iscrowd is -1"),
  "iscrowd 0.5": (_annotation("iscrowd", "0.5"), rf"{TWO}: iscrowd is 0\.5"),
  "iscrowd maybe": (_annotation("iscrowd", '"maybe"'), rf"{TWO}: iscrowd is 'maybe'"),
  "iscrowd empty": (_annotation("iscrowd", '""'), rf"{TWO}: iscrowd is ''"),
  "iscrowd list": (_annotation("iscrowd", "[0]"), rf"{TWO}: iscrowd is \[0\]"),
  "ignore 3": (_annotation("ignore", "3"), rf"{TWO}: ignore is 3"),
  "area text": (_annotation("area", '"large"'), rf"{TWO}: area is 'large'"),
  "area true": (_annotation("area", "true"), rf"{TWO}: area is true"),
  "area negative": (_annotation("area", "-4"), rf"{TWO}: area is -4, .* at least 0"),
  "area beyond single precision": (_annotation("area", "1e39"), rf"{TWO}: area is 1e\+39"),
  "area NaN": (_annotation("area", "NaN"), rf"{TWO}: area is NaN"),
  "area comma": (_annotation("area", '"1,5"'), rf"{TWO}: area is '1,5'"),
  "area nan as text": (_annotation("area", '"nan"'), rf"{TWO}: area is 'nan'"),
  "area underscore": (_annotation("area", '"1_000"'), rf"{TWO}: area is '1_000'"),
  "area other digits": (_annotation("area", '"１２"'), rf"{TWO}: area is '１２'"),
  "bbox null": (_annotation("bbox", "null"), rf"{TWO}: bbox is empty.*--repair"),
  "bbox empty": (_annotation("bbox", "[]"), rf"{TWO}: bbox is empty"),
  "bbox of three": (_annotation("bbox", "[1, 2, 3]"), rf"{TWO}: bbox is \[1, 2, 3\], expected"),
  "bbox of five": (_annotation("bbox", "[1, 2, 3, 4, 5]"), rf"{TWO}: bbox is \[1, 2, 3, 4, 5\]"),
  "bbox text": (_annotation("bbox", '"1 2 3 4"'), rf"{TWO}: bbox is '1 2 3 4'"),
  "bbox object": (_annotation("bbox", '{"x": 1}'), rf"{TWO}: bbox is {{\.\.\.}}"),
  "bbox with null": (_annotation("bbox", "[1, 2, null, 4]"), rf"{TWO}: bbox is \[1, 2, null, 4\]"),
  "bbox with true": (_annotation("bbox", "[1, 2, true, 4]"), rf"{TWO}: bbox is \[1, 2, true, 4\]"),
  "bbox NaN": (_annotation("bbox", "[1, NaN, 3, 4]"), rf"{TWO}: bbox is \[1, NaN, 3, 4\]"),
  "bbox -Infinity": (_annotation("bbox", "[-Infinity, 2, 3, 4]"), rf"{TWO}: bbox is \[-Infinity"),
  "bbox 1e400": (_annotation("bbox", "[1, 2, 1e400, 4]"), rf"{TWO}: bbox is \[1, 2, 1e400, 4\]"),
  "bbox of 400 digits": (_annotation("bbox", f"[{ONES}, 2, 3, 4]"), rf"{TWO}: bbox is"),
  "bbox as text 1e400": (_annotation("bbox", '[1, 2, "1e400", 4]'), rf"{TWO}: bbox is"),
  "bbox unit": (_annotation("bbox", '[1, 2, "3 px", 4]'), rf"{TWO}: bbox is .*'3 px'"),
  "bbox negative size": (_annotation("bbox", "[1, 2, -3, 4]"), rf"{TWO}: .*size -3 x 4"),
  "bbox outside": (_annotation("bbox", "[1, 2, 3, 400]"), rf"{TWO}: .*378 pixels out"),
  "bbox 1e308": (_annotation("bbox", "[1, 2, 3, 1e308]"), rf"{TWO}: .*pixels out"),
  "segmentation text": (_annotation("segmentation", '"x"'), rf"{TWO}: segmentation\[0\] is 'x'"),
  "segmentation odd": (_annotation("segmentation", "[[1, 2, 3]]"), rf"{TWO}: segmentation\[0\] is"),
  "segmentation null": (
    _annotation("segmentation", "[[1, 2, 3, null]]"),
    rf"{TWO}: segmentation\[0\] is \[1, 2, 3, null\]",
  ),
  "segmentation beyond single precision": (
    _annotation("segmentation", "[[1, 2, 3, 4, 5, 6], [1, 2, -1e39, 4, 5, 6]]"),
    r"annotation 2: segmentation has a number beyond",
  ),
  "segmentation object": (_annotation("segmentation", '{"a": 1}'), rf"{TWO}: .*without 'counts'"),
  "segmentation NaN": (_annotation("segmentation", "NaN"), rf"{TWO}: segmentation\[0\] is NaN"),
  "segmentation deep": (
    _annotation("segmentation", "[[[[1, 2]]]]"),
    rf"{TWO}: segmentation\[0\] is \[\[\[1, 2\]\]\], expected",
  ),
  "id 1.5": (_annotation("id", "1.5"), r"annotations\[1\]: id is 1\.5"),
  "id null": (_annotation("id", "null"), r"annotations\[1\]: id is null"),
  "id true": (_annotation("id", "true"), r"annotations\[1\]: id is true"),
  "id negative": (_annotation("id", "-2"), r"annotation -2 of .*: id is -2"),
  "id uuid": (_annotation("id", '"0a1b-2c"'), r"annotation '0a1b-2c' of .*: id is '0a1b-2c'"),
  "id beyond 64 bits": (_annotation("id", str(2**63)), r"annotation 92\d+ .*: id is 92\d+"),
  "id of 5000 digits": (_annotation("id", "1" * 5000), r"annotations\[1\]: id is 1+"),
  "id a float too long": (_annotation("id", "20240131093015123.0"), r"2\*\*53 on digits are lost"),
  "id twice": (_annotation("id", "1"), r"annotation id 1 occurs twice"),
  "id twice, once as text": (_annotation("id", '"1"'), r"annotation id 1 occurs twice"),
  "image_id null": (_annotation("image_id", "null"), r"annotation 2: image_id is null"),
  "image_id a file": (_annotation("image_id", '"a.jpg"'), r"annotation 2: image_id is 'a\.jpg'"),
  "image_id unknown": (_annotation("image_id", "5"), r"annotation 2 belongs to image 5"),
  "category_id unknown": (_annotation("category_id", "5"), r"annotation 2 .*has category 5"),
  "category_id a name": (_annotation("category_id", '"cat"'), rf"{TWO}: category_id is 'cat'"),
  "height null": (_image("height", "null"), r"image 9 \(a\.jpg\): height is null"),
  "height 0": (_image("height", "0"), r"image 9 \(a\.jpg\): height is 0"),
  "width 31.5": (_image("width", "31.5"), r"image 9 \(a\.jpg\): width is 31\.5"),
  "width beyond 32 bits": (_image("width", str(2**31)), r"image 9 .*: width is 2147483648"),
  "image id text": (_image("id", '"first"'), r"images\[0\]: id is 'first'"),
  "image id twice": (_image("id", "4"), r"image id 4 occurs twice, for 'a\.jpg' and 'sub/b\.jpg'"),
  "file_name null": (_image("file_name", "null"), r"image 9 .*: file_name is null"),
  "file_name number": (_image("file_name", "9"), r"image 9 .*: file_name is 9, expected a text"),
  "file_name empty": (_image("file_name", '""'), r"image 9 \(images\[0\]\): file_name is ''"),
  "file_name NUL": (_image("file_name", '"a\\u0000.jpg"'), r"image 9 .*: file_name is 'a\\x00"),
  "file_name line": (_image("file_name", '"a\\n.jpg"'), r"image 9 .*: file_name is 'a\\n"),
  "file_name URL": (_image("file_name", '"https://a.b/c.jpg"'), r"image 9 .*: .* is an address"),
  "file_name drive": (_image("file_name", '"C:\\\\a.jpg"'), r"image 9 .*drive of another machine"),
  "file_name half a character": (_image("file_name", '"\\ud800.jpg"'), r"image 9 .*: file_name is"),
  "name null": (_category("name", "null"), rf"{CATEGORY}: name is null"),
  "name a number": (_category("name", "5"), rf"{CATEGORY}: name is 5"),
  "name empty": (_category("name", '" "'), rf"{CATEGORY}: name is ' '"),
  "name invisible": (_category("name", '"\\u200b"'), rf"{CATEGORY}: name is '\\u200b'"),
  "name with line": (_category("name", '"a\\nb"'), rf"{CATEGORY}: name is 'a\\nb'"),
  "name half a character": (_category("name", '"\\udfff"'), rf"{CATEGORY}: name is"),
  "name twice": (_category("name", '"dog "'), r"name 'dog' occurs twice, for ids 17 and 18"),
  "names alike: case": (_category("name", '"Dog"'), r"'Dog' \(id 17\) and 'dog' \(id 18\) look"),
  "names alike: space": (_category("name", '"red_fox"'), r"'red_fox' \(id 17\) and 'red fox'"),
  "names alike: invisible": (_category("name", '"d\\u200bog"'), r"'d\\u200bog' .*look alike"),
  "names alike: width": (_category("name", '"ｄｏｇ"'), r"'\\uff44\\uff4f\\uff47' .*look alike"),
  "names alike: script": (_category("name", '"dоg"'), r"'d\\u043eg' .* and 'dog' .*look alike"),
  "category id twice": (_category("id", "18"), r"category id 18 occurs twice, for 'cat' and 'dog'"),
  "category id text": (_category("id", '"cat"'), rf"{CATEGORY}: id is 'cat'"),
  # Entries and lists.
  "annotation null": (_annotation(None, "null"), r"annotations\[1\] is null, expected an object"),
  "annotation a list": (_annotation(None, "[1, 2]"), r"annotations\[1\] is \[1, 2\]"),
  "image a text": (_image(None, '"a.jpg"'), r"images\[0\] is 'a\.jpg'"),
  "category a text": (_category(None, '"cat"'), rf"{CATEGORY} is 'cat'"),
  "no bbox": (_without("annotations", "bbox"), rf"{TWO} has no 'bbox'"),
  "no image_id": (_without("annotations", "image_id"), r"annotation 2 has no 'image_id'"),
  "no id": (_without("annotations", "id"), r"annotations\[1\] has no 'id'"),
  "no file_name": (_without("images", "file_name"), r"image 4 .*has no 'file_name'"),
  "no height": (_without("images", "height"), r"image 4 \(sub/b\.jpg\) has no 'height'"),
  "no name": (_without("categories", "name"), rf"{CATEGORY} has no 'name'"),
  "images an object": (_set(None, 0, "images", '{"9": {}}'), r"'images' is \{\.\.\.\}"),
  "annotations null": (_set(None, 0, "annotations", "null"), r"'annotations' is null"),
  "images empty": (_set(None, 0, "images", "[]"), r"'images' is empty"),
  "categories empty": (_set(None, 0, "categories", "[]"), r"'categories' is empty"),
  "categories missing": (SOUND.replace('"categories"', '"classes"'), r"has no 'categories'"),
  "key twice": (SOUND.replace('"bbox": [0', '"bbox": [1, 1, 2, 2], "bbox": [0'), r"'bbox' twice"),
  "key twice, once escaped": (
    SOUND.replace('"bbox": [0', '"bbox": [1, 1, 2, 2], "\\u0062box": [0'),
    r"annotations\[1\] has 'bbox' twice",
  ),
  "list twice": ('{"images": [], ' + SOUND[1:], r"train\.json has 'images' twice"),
  # Files.
  "a list": ("[]", r"train\.json is a list"),
  "a number": ("5", r"train\.json is neither an object nor a list"),
  "an empty object": ("{}", r"has 3 problems"),
  "an empty file": ("", r"train\.json is not valid JSON: line 1, column 1"),
  "cut off": (SOUND[:300], r"line 1, column 301: .*may be cut off"),
  "two files in one": (SOUND + SOUND, r"line 1, column \d+: .*trailing"),
  "trailing comma": (SOUND.replace("}]", "},]", 1), r"line 1, column \d+: .*comma"),
  "comment": ("// annotations\n" + SOUND, r"line 1, column 1"),
  "nested": (_annotation("extra", DEEP), r"train\.json has .* nested too deeply"),
  "nested at once": (DEEP, r"train\.json has .* nested too deeply"),
  "UTF-16": (SOUND.encode("utf-16"), r"train\.json is not a text file in UTF-8"),
  "Latin-1": (SOUND.replace("zebra", "bär").encode("latin-1") + b"\xe4", r"not a text .*line 1"),
  "gzip": (gzip.compress(SOUND.encode()), r"train\.json is an archive"),
  "a NUL byte": (SOUND.replace("zebra", "ze\0bra"), r"line 1, column \d+"),
}
# The entry of the annotation with id 2, and what is noted.
ACCEPTED = {
  "iscrowd true": (_annotation("iscrowd", "true"), {"is_crowd": True}, "as true or false"),
  "iscrowd false as text": (_annotation("iscrowd", '"False"'), {"is_crowd": False}, "as text"),
  "iscrowd 1 as text": (_annotation("iscrowd", '"1"'), {"is_crowd": True}, "iscrowd as text"),
  "iscrowd 1.0": (_annotation("iscrowd", "1.0"), {"is_crowd": True}, "as a decimal"),
  "iscrowd null": (_annotation("iscrowd", "null"), {"is_crowd": False}, "iscrowd null"),
  "ignore": (_annotation("ignore", "true"), {"is_crowd": True}, "to be ignored"),
  "area as text": (_annotation("area", '" 12.5 "'), {"areas": 12.5}, "area as text"),
  "area null": (_annotation("area", "null"), {"areas": 64}, "area null"),
  "bbox as text": (
    _annotation("bbox", '[" 1", "2.0", "3e0", "+4"]'),
    {"boxes": [1, 2, 4, 6]},
    "bbox numbers as text",
  ),
  "id as text": (_annotation("id", '"7"'), {"object_ids": 7}, "annotations with id as text"),
  "id as a decimal": (_annotation("id", "7.0"), {"object_ids": 7}, "id as a decimal"),
  "id beyond 32 bits": (_annotation("id", str(2**40 + 1)), {"object_ids": 2**40 + 1}, None),
  "category_id as text": (
    _annotation("category_id", '"20"'),
    {"classes": 2},
    "category_id as text",
  ),
  "image_id as text": (_annotation("image_id", '"9"'), {"classes": 2}, "image_id as text"),
  "height as text": (_image("height", '"24"'), {"classes": 2}, "images with height as text"),
  "category id as text": (_category("id", '"17"'), {"classes": 2}, "categories with id as text"),
  "name with spaces": (_category("name", '" cat\\t"'), {"classes": 2}, "spaces around the name"),
  "segmentation null": (_annotation("segmentation", "null"), {"polygons": []}, None),
  "segmentation in pairs": (
    _annotation("segmentation", "[[[1, 2], [3, 4], [5, 7]]]"),
    {"polygons": [[1, 2, 3, 4, 5, 7]]},
    "as pairs",
  ),
  "file_name in a folder above": (_image("file_name", '"../images/a.jpg"'), {"classes": 2}, None),
  "NaN elsewhere": (_annotation("score", "NaN"), {"classes": 2}, None),
  "1e400 elsewhere": (_annotation("score", "1e400"), {"classes": 2}, None),
  "copy of a category": (
    SOUND.replace('{"id": 18', '{"id": 17, "name": "cat"}, {"id": 18'),
    {"classes": 2},
    "equal copies",
  ),
  "a mark at the beginning": (b"\xef\xbb\xbf" + SOUND.encode(), {"classes": 2}, None),
}


def _write(folder, text):
  path = coco_files.write(folder) / "train.json"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_lose_something_is_refused(tmp_path, text, message):
  path = _write(tmp_path, text)
  with pytest.raises(ValueError, match=message) as error:
    annotations.load_annotations(path, tmp_path / "images")
  assert type(error.value) is ValueError and str(path) in str(error.value)
  for line in str(error.value).splitlines():
    assert len(line) < len(str(path)) + 320
  # Who asks for the names alone has the names, or the project's error.
  try:
    assert len(class_names.load_class_names(path)) == 4
  except ValueError as other:
    assert str(path) in str(other)


@pytest.mark.parametrize(("text", "values", "note"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_loses_nothing_is_read_and_counted(tmp_path, text, values, note):
  found = annotations.load_annotations(_write(tmp_path, text), tmp_path / "images")
  image = found.images[0]
  assert len(image.boxes) == 4 and found.class_names == ("cat", "dog", "red fox", "zebra")
  for name, value in values.items():
    own = getattr(image, name)[1]
    own = [part.ravel().tolist() for part in own] if name == "polygons" else own.tolist()
    assert own == value
  notes = " ".join(found.notes)
  assert note in notes if note else not notes
