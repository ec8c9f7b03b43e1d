"""From what a command is told to a proposer."""

import dataclasses

import pytest

from rkd_jax.teachers import settings as teachers
from rkd_jax.teachers.images import Options
from rkd_jax.teachers.region_growing import RegionGrowing

SETTINGS = teachers.Settings(Options(), "nowhere", "shapes_ovd/scenes", "clip")


def test_region_growing_needs_no_file():
  assert isinstance(teachers.make_proposer(SETTINGS, "train"), RegionGrowing)


@pytest.mark.parametrize(
  "given, message",
  [
    ({"proposals": "mvit", "checkpoint": "a", "vocabulary": "b"}, "needs .*--merges=..."),
    ({"proposals": "rpn"}, "--proposals=rpn needs --checkpoint=...\\.$"),
    ({"proposals": "boxes"}, "--proposals=boxes: expected regions.*there is no such folder"),
  ],
)
def test_what_is_missing_is_named(given, message):
  with pytest.raises(ValueError, match=message):
    teachers.make_proposer(dataclasses.replace(SETTINGS, **given), "train")
