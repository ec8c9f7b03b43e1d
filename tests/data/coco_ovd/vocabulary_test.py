"""OV-COCO's classes and their synonyms (tests/golden/caption_tags.json)."""

import json
from pathlib import Path

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
