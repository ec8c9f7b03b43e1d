"""What the builders share."""

from rkd_jax.data import builder


def test_official_totals_are_recognised():
  official = {"a.json": {"images": 3}, "b.json": {"images": 4}}
  lines = builder.compared({"a.json": {"images": 3}, "b.json": {"images": 5}}, official)
  assert lines == [
    "a.json has the official totals: 3 images",
    "b.json is not the official file, or cut: 5 images (official: 4)",
  ]
