"""Where the pictures of a sheet are."""

import numpy as np
import pytest

from rkd_jax.pictures.sheets import _GAP, sheet


def _plain(height, width, value):
  return np.full((height, width, 3), value, np.uint8)


def test_pictures_stand_in_rows_below_their_text():
  rows = [("first", [_plain(20, 40, 10), _plain(40, 20, 60)]), ("second", [_plain(30, 30, 110)])]
  found = sheet(rows, 40, 3)
  line = (found.shape[0] - 2 * (40 + _GAP)) // 2
  assert found.shape == (2 * (line + 40 + _GAP), 3 * (40 + _GAP) + _GAP, 3)
  for value, top, left, height, width in (
    (10, line, _GAP, 20, 40),
    (60, line, 2 * _GAP + 40, 40, 20),
    (110, 2 * line + 40 + _GAP, _GAP, 40, 40),
  ):
    place = found[top : top + height, left : left + width]
    assert (place == value).all()
    assert (found == value).all(-1).sum() >= height * width
  # Text above each row, and white where there is no picture.
  for top in (0, line + 40 + _GAP):
    assert found[top : top + line].min() < 80
  assert (found[line:, -40:] == 255).all()


def test_pictures_beyond_the_columns_and_texts_beyond_the_width_are_cut():
  found = sheet([("a name " * 40, [_plain(10, 10, value) for value in (10, 60, 110)])], 30, 2)
  assert found.shape[1] == 2 * (30 + _GAP) + _GAP
  assert not (found == 110).all(-1).any() and (found == 60).all(-1).any()


def test_a_row_may_have_no_picture_but_a_sheet_has_a_row():
  assert sheet([("nothing", [])], 30, 2).shape[1] == 2 * (30 + _GAP) + _GAP
  with pytest.raises(ValueError, match="at least one row"):
    sheet([], 30, 2)
