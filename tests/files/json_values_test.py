"""Values of annotation files: what may stand for them, and what they look like in messages."""

import math

import pytest

from rkd_jax.files import json_values
from rkd_jax.files.json_values import READERS, RefusedError, shown


@pytest.mark.parametrize(
  ("kind", "value", "expected", "what"),
  [
    (json_values.Id, 5, 5, set()),
    (json_values.Id, " 0005 ", 5, {"as text"}),
    (json_values.Id, "5.0", 5, {"as text", "as a decimal"}),
    (json_values.Id, float(2**53 - 1), 2**53 - 1, {"as a decimal"}),
    (json_values.Id, str(2**63 - 1), 2**63 - 1, {"as text"}),
    (json_values.Flag, True, 1, {"as true or false"}),
    (json_values.Flag, "FALSE", 0, {"as text"}),
    (json_values.Flag, None, 0, {"null"}),
    (json_values.Box, [1, "2", 3.5, "-4e1"], (1, 2, 3.5, -40), {"numbers as text"}),
    (json_values.Box, None, (), set()),
    (json_values.Segmentation, [1, 2, "3", 4], [[1, 2, 3, 4]], None),
    (json_values.Segmentation, [[[1, 2], [3, 4]]], [[1, 2, 3, 4]], {"as pairs of numbers"}),
    (json_values.Segmentation, {"counts": [1]}, {"counts": [1]}, set()),
    (json_values.Ids, [1, "2"], [1, 2], {"as text"}),
    (float, "1.5", 1.5, {"as text"}),
  ],
)
def test_what_loses_nothing_is_read(kind, value, expected, what):
  odd = set()
  assert READERS[kind](value, odd) == expected
  assert what is None or odd == what


@pytest.mark.parametrize(
  ("kind", "value"),
  [
    *(
      (json_values.Id, value) for value in (-1, 2**63, True, 1.5, float(2**53), "1_0", "x", "", [])
    ),
    *((json_values.Size, value) for value in (0, 2**31, None)),
    *((json_values.Flag, value) for value in (2, -1, 0.5, "yes", "", [], {})),
    *((float, value) for value in ("nan", "1e999", 10**400, True, [1], "0x1", "１")),
    (json_values.Segmentation, [[1, 2, 3]]),
    (json_values.Segmentation, [[1, 2], {"counts": [1]}]),
    (str, 5),
  ],
)
def test_what_loses_something_is_refused(kind, value):
  with pytest.raises(RefusedError):
    READERS[kind](value, set())


def test_no_area_is_the_area_of_the_box():
  odd = set()
  assert math.isnan(READERS[float](None, odd)) and odd == {"null"}


def test_values_are_shown_on_one_short_line():
  assert (
    shown([1, None, True, "a\nb", {json_values.MARK: "NaN"}]) == r"[1, null, true, 'a\nb', NaN]"
  )
  assert shown({"a": 1}) == "{...}" and shown({}) == "{}"
  assert shown(10**400) == "an integer of more than 40 digits"
  assert len(shown(list(range(1000)))) == 80
