"""What the builders share."""

import pytest

from rkd_jax.data import builder


def test_official_totals_are_recognised():
  official = {"a.json": {"images": 3}, "b.json": {"images": 4}}
  lines = builder.compared({"a.json": {"images": 3}, "b.json": {"images": 5}}, official)
  assert lines == [
    "a.json has the official totals: 3 images",
    "b.json is not the official file, or cut: 5 images (official: 4)",
  ]


def test_a_limit_is_at_least_one_image():
  assert builder.checked_limit(None) is None and builder.checked_limit(1) == 1
  with pytest.raises(ValueError, match="limit is 0"):
    builder.checked_limit(0)
