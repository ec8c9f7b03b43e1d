"""What the builders share."""

from rkd_jax.data import builder


def test_official_totals_are_recognised():
  counted = {"a.json": {"images": (3, 3)}, "b.json": {"images": (5, 4), "boxes": (9, 9)}}
  assert builder.compared(counted) == [
    "a.json has the official totals: 3 images",
    "b.json is not the official file, or cut: 5 images (official: 4)",
  ]
