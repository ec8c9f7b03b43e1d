"""OV-COCO's classes, their synonyms and caption tags, against those of the original's tool."""

import json
from pathlib import Path

import pytest

from rkd_jax.data.coco_ovd import vocabulary

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/caption_tags.json").read_text())


# COCO's category ids are 1 to 90 with ten gaps.
IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


ID_OF = dict(zip(vocabulary.SYNONYMS, IDS, strict=True))


def test_synonyms_are_those_of_the_original():
  assert {str(ID_OF[k]): list(v) for k, v in vocabulary.SYNONYMS.items()} == GOLDEN["synonyms"]


def test_the_split_is_48_and_17_of_the_80_classes():
  base, novel = set(vocabulary.BASE), set(vocabulary.NOVEL)
  assert (len(vocabulary.BASE), len(base), len(vocabulary.NOVEL), len(novel)) == (48, 48, 17, 17)
  assert len(vocabulary.SYNONYMS) == 80 and base | novel < set(vocabulary.SYNONYMS)
  assert not base & novel


def test_tags_equal_the_originals():
  for image in GOLDEN["images"]:
    found = [ID_OF[name] for name in vocabulary.tags(image["captions"])]
    assert found == image["pos_category_ids"], image["captions"]
    assert bool(found) == image["kept"]


@pytest.mark.parametrize(
  ("synonym", "words"), [("tie_(necktie)", "tie"), ("Computer_Mouse", "computer mouse")]
)
def test_synonyms_as_they_are_spoken(synonym, words):
  assert vocabulary.spoken(synonym) == words


@pytest.mark.parametrize(
  ("captions", "found"),
  [
    (["a cat"], ["cat"]),
    (["cat sits"], ["cat"]),
    (["my cat sits"], ["cat"]),
    (["cat"], []),  # neither followed nor preceded by a space
    (["Cat", "dog"], ["cat", "dog"]),
    (["a cat."], []),
    (["two cats"], []),
    (["a cat\n"], []),
    (["a stop", "sign here"], ["stop sign"]),
    (["ein Bär und a cat é"], ["cat"]),
    ([], []),
  ],
)
def test_the_rule_by_hand(captions, found):
  assert vocabulary.tags(captions) == found
