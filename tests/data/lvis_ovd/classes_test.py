"""LVIS' classes by frequency, and WordNet's names for them."""

import json

import pytest

from rkd_jax.data.lvis_ovd.classes import load_synsets, of_categories

# By descending id, as a file may have them.
CATEGORIES = [
  {"id": 3, "name": "cat", "frequency": "f", "synset": "cat.n.01"},
  {"id": 2, "name": "bat_(animal)", "frequency": "r", "synset": "bat.n.01"},
  {"id": 1, "name": "awning", "frequency": "c", "synset": "awning.n.01"},
]


def test_the_rare_ones_are_novel():
  classes = of_categories(CATEGORIES, "lvis.json")
  assert classes.names == ("cat", "bat_(animal)", "awning") and classes.frequencies == tuple("frc")
  assert (classes.base, classes.novel) == (["cat", "awning"], ["bat_(animal)"])


def test_synsets_come_by_ascending_id(tmp_path):
  (tmp_path / "lvis.json").write_text(json.dumps({"categories": CATEGORIES}))
  classes, synsets = load_synsets(tmp_path / "lvis.json")
  assert classes.names == ("awning", "bat_(animal)", "cat")
  assert synsets == ("awning.n.01", "bat.n.01", "cat.n.01")


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
    load_synsets(tmp_path / "lvis.json")
