"""Names of classes from files, command lines and captions."""

import json
from pathlib import Path

import pytest
import tensorflow_datasets

from rkd_jax.data.coco_ovd import vocabulary as coco_vocabulary
from rkd_jax.data.shapes_ovd import vocabulary as shapes_vocabulary
from rkd_jax.records import class_names as category_names


def test_without_base_every_other_class_is_base(tmp_path):
  assert category_names.split_classes(("a", "b", "c"), None, ("b",)) == (("a", "c"), ("b",))


def test_names_from_text_and_file(tmp_path):
  (tmp_path / "names.txt").write_text("cat\n\n red fox \n")
  assert category_names.parse_names("cat, red fox,") == ("cat", "red fox")
  assert category_names.parse_names(f"@{tmp_path / 'names.txt'}") == ("cat", "red fox")
  with pytest.raises(ValueError, match=r"none\.txt"):
    category_names.parse_names("@none.txt")
  (tmp_path / "names.txt").write_bytes("\ufeffMädchen\n".encode())
  assert category_names.parse_names(f"@{tmp_path / 'names.txt'}") == ("Mädchen",)
  (tmp_path / "names.txt").write_bytes("Mädchen\n".encode("latin-1"))
  with pytest.raises(ValueError, match=r"names\.txt is not a text file in UTF-8"):
    category_names.parse_names(f"@{tmp_path / 'names.txt'}")


def test_categories_are_listed_by_ascending_id(tmp_path):
  entries = [{"id": 7, "name": "owl", "synonyms": ["owl", "hooter"]}, {"id": 2, "name": "cat"}]
  (tmp_path / "a.json").write_text(json.dumps({"categories": entries}))
  (tmp_path / "b.json").write_text(json.dumps(entries[:1]))
  categories = category_names.load_categories(tmp_path / "a.json")
  assert [(key, entry["name"]) for key, entry in categories.items()] == [(2, "cat"), (7, "owl")]
  assert category_names.load_class_names(tmp_path / "b.json") == ("owl",)
  assert category_names.load_synonyms(tmp_path / "b.json") == (("owl", "hooter"),)
  with pytest.raises(ValueError, match=r"category 2 \(cat\): 'synonyms' is None"):
    category_names.load_synonyms(tmp_path / "a.json")


def test_captions_name_whole_words_and_their_plurals():
  names = ("cat", "bus", "red fox")
  assert category_names.named_in(["Two buses", "a RED  fox"], names) == ["bus", "red fox"]
  assert category_names.named_in(["a category", "predicates"], names) == []


def test_a_split_names_classes_and_each_once():
  category_names.check_split(("cat", "owl"), ("cat",), ("owl",))
  with pytest.raises(ValueError, match="novel classes names 'yak', which is not among"):
    category_names.check_split(("cat", "owl"), ("cat",), ("yak",))
  with pytest.raises(ValueError, match=r"\['cat'\] are in the list of base classes and of novel"):
    category_names.check_split(("cat", "owl"), ("cat",), ("cat",))


def test_names_are_clean_at_every_door(tmp_path):
  decomposed, composed = "cafe\u0301", "caf\u00e9"
  assert category_names.clean_name(f"\ufeff {decomposed}\u200b\n") == composed
  assert category_names.parse_names(f"{decomposed} ,cat\u200b,\u200b") == (composed, "cat")
  names = ("cat", "dog", composed)
  assert category_names.split_classes(names, None, ("cat ",)) == (("dog", composed), ("cat",))
  assert category_names.split_classes(names, (decomposed,), ()) == ((composed,), ())
  entries = [{"id": 1, "name": f" {decomposed}"}, {"id": 2, "name": "cat\u00a0"}]
  (tmp_path / "a.json").write_text(json.dumps(entries))
  assert category_names.load_class_names(tmp_path / "a.json") == (composed, "cat")


@pytest.mark.parametrize(
  "other", ["Cat tree", "cat_tree", "cat  tree", "cat\u200b tree", "ｃat tree", "c\u0430t tree"]
)
def test_names_that_look_alike_are_paired(other):
  assert category_names.alike(["owl", "cat tree", other]) == [("cat tree", other)]


def test_names_that_people_tell_apart_are_not_paired():
  names = ["bat_(animal)", "bat_(sport)", "t-shirt", "t shirt", "/m/02519", "/m/02519_", "кот"]
  assert not category_names.alike(names)


def test_published_vocabularies_have_no_names_that_look_alike():
  lists = [coco_vocabulary.CLASSES, shapes_vocabulary.CLASS_NAMES]
  folder = Path(tensorflow_datasets.__file__).parent
  for name in ("datasets/lvis/classes.txt", "datasets/imagenet2012/labels.txt"):
    lists.append((folder / name).read_text().split("\n"))
  for name in ("boxable", "trainable", "all"):
    lists.append((folder / f"object_detection/open_images_classes_{name}.txt").read_text().split())
  assert sum(map(len, lists)) > 25_000
  assert [category_names.alike(names) for names in lists] == [[]] * len(lists)


def test_captions_name_classes_as_people_say_them():
  names = ("fire_hydrant", "bat_(animal)", "(unknown)", "café")
  found = category_names.named_in(["A fire hydrant.", "A bat asleep", "un cafe\u0301"], names)
  assert found == ["fire_hydrant", "bat_(animal)", "café"]
  assert category_names.named_in(["combat", "fire"], names) == []
  assert category_names.spoken("Bat_(animal)_box") == "bat box"


ROOT = {"id": 0, "name": "pets", "supercategory": "none"}
CLASSES = [{"id": n, "name": name, "supercategory": "pets"} for n, name in ((1, "cat"), (2, "dog"))]


@pytest.mark.parametrize(
  ("categories", "used", "names"),
  [
    ([ROOT, *CLASSES], [1], ("cat", "dog")),
    ([ROOT, *CLASSES], [0, 1], ("pets", "cat", "dog")),
    ([ROOT | {"supercategory": "pets"}, *CLASSES], [1], ("pets", "cat", "dog")),
    ([ROOT, *CLASSES, {"id": 3, "name": "owl"}], [1], ("pets", "cat", "dog", "owl")),
    ([ROOT], [], ("pets",)),
  ],
)
def test_a_root_that_no_annotation_has_is_no_class(tmp_path, categories, used, names):
  entries = [{"category_id": category} for category in used]
  content = {"categories": categories, "annotations": entries}
  (tmp_path / "a.json").write_text(json.dumps(content))
  assert category_names.load_class_names(tmp_path / "a.json") == names
