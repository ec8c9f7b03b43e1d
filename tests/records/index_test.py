"""The index of a split: what it counts, what it selects, and its file."""

import numpy as np
import pytest

from rkd_jax.records import index as index_lib
from rkd_jax.records.sources import select

# (height, width, classes, labels, pseudo boxes)
ROWS = [
  (20, 30, [2, 0, 2], 0, 0),
  (21, 31, [], 2, 1),
  (22, 32, [1], 1, 0),
  (23, 33, [0, 1], 0, 0),
]
INDEX = index_lib.make(ROWS)


class Source(list):
  name = "data/train"
  base = ("a",)
  index = INDEX


def test_classes_of_a_record_count_once():
  assert INDEX.classes.tolist() == [0, 2, 1, 0, 1]
  assert INDEX.starts.tolist() == [0, 2, 2, 3, 5]
  assert INDEX.image_counts(4).tolist() == [2, 2, 1, 0]


@pytest.mark.parametrize(
  ("rule", "positions"),
  [("", [0, 1, 2, 3]), ("boxes", [0, 2, 3]), ("labels", [1, 2]), ("pseudo_boxes", [1])],
)
def test_rules_and_selected_records(rule, positions):
  assert np.flatnonzero(INDEX.matching(rule)).tolist() == positions
  chosen = select(Source("wxyz"), rule)
  assert list(chosen) == ["wxyz"[i] for i in positions] and chosen.base == ("a",)
  assert [(h, w) for h, w in zip(chosen.index.heights, chosen.index.widths)] == [
    ROWS[i][:2] for i in positions
  ]
  kept = [np.unique(ROWS[i][2]).tolist() for i in positions]
  parts = np.split(chosen.index.classes, chosen.index.starts[1:-1])
  assert [part.tolist() for part in parts] == kept


def test_nothing_left_and_unknown_rules_are_refused():
  empty = Source("a")
  empty.index = index_lib.make([(1, 1, [], 0, 0)])
  with pytest.raises(ValueError, match="none of the 1 records of data/train has pseudo boxes"):
    select(empty, "pseudo_boxes")
  with pytest.raises(ValueError, match="records is 'boxs'"):
    select(empty, "boxs")
  with pytest.raises(IndexError, match="record 3 of 3"):
    select(Source("wxyz"), "boxes")[3]


def test_the_file_gives_the_same_index(tmp_path):
  index_lib.save(tmp_path, "train", INDEX)
  loaded = index_lib.load(tmp_path, "train")
  for name, column in vars(INDEX).items():
    np.testing.assert_array_equal(getattr(loaded, name), column)
  file = index_lib.file_of(tmp_path, "train")
  for damaged in (b"PK no", file.read_bytes()[:100]):
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"train\.index\.npz is no index"):
      index_lib.load(tmp_path, "train")
