"""Names of classes from files, command lines and captions."""

import json

import pytest

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
