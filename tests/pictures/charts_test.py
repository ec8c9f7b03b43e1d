"""Charts: where points land, ticks, escapes, and balanced HTML."""

import re

import numpy as np
import pytest
from html_page import Page

from rkd_jax.pictures import charts


@pytest.mark.parametrize(
  "low, high, expected",
  [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (0, 450, [0, 100, 200, 300, 400, 500]),
    (0.16, 0.22, [0.16, 0.17, 0.18, 0.19, 0.2, 0.21, 0.22]),
    (-3, 4, [-4, -2, 0, 2, 4]),
    (5, 5, [5, 6, 7, 8, 9, 10]),
    (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
  ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
  np.testing.assert_allclose(charts._ticks(low, high), expected, atol=1e-12)


def test_a_curve_lies_in_its_frame():
  svg = charts.lines("a <b>", {"x & y": ([0, 10], [0.0, 1.0])}, "step", (0, 1))
  page = Page(svg)
  assert "a <b>" in page.text and "x & y" in page.text
  (path,) = re.findall(r'd="M([^"]+)"', svg)
  assert path == "40.0 186.0L330.0 26.0"
  assert svg.count("<circle") == 2  # of few points


def test_the_diagonal_goes_from_zero_to_one_and_is_no_series():
  svg = charts.lines("t", {"x": ([0.5, 0.7], [0.2, 0.3])}, "score", (0, 1), diagonal=True)
  assert 'x1="40.0" x2="330.0" y1="186.0" y2="26.0" stroke-dasharray' in svg
  (path,) = re.findall(r'd="M([^"]+)"', svg)
  assert path == "185.0 154.0L243.0 138.0" and svg.count("stroke-dasharray") == 1
  assert "stroke-dasharray" not in charts.lines("t", {"x": ([0, 1], [0, 1])}, "score")
  Page(svg)


def test_long_curves_are_faint_below_their_running_mean_and_short_ones_dotted():
  long, short = (range(30), np.ones(30)), (range(3), np.ones(3))
  svg = charts.lines("t", {"long": long, "short": short, "none": ((), ())}, "step", smooth=True)
  assert svg.count('class="s0 faint"') == svg.count('class="s0"') == 1
  assert svg.count('class="s1"') == 1 and svg.count('class="f1"') == 3
  Page(svg)


def test_smoothing_keeps_a_line_and_its_length():
  np.testing.assert_allclose(charts._running_mean(np.full(50, 3.0)), 3.0)
  found = charts._running_mean(np.array([0.0, 3.0, 6.0, 0.0]))
  np.testing.assert_allclose(found, [1.5, 3.0, 3.0, 3.0])


def test_points_have_the_names_of_their_groups():
  points = np.array([[0, 0], [1, 2], [3, 1.0]])
  page = Page(charts.scatter("map", points, [0, 1, 1], ["cat", "<owl>"]))
  assert page.tags.count("circle") == 3 and page.text.count("<owl>") == 3


def test_cells_can_be_sorted_by_a_number():
  text = charts.table(["a", "b"], [["x", ("1 <small>y</small>", 1.5)], ["z", "–"]], sortable=True)
  assert 'data-v="1.5"' in text and "sortable" in text
  Page(text)
  assert "bar" not in charts.bar_cell("–", None, "all")
  assert 'style="width:50.0%"' in charts.bar_cell("x", 50, "all")


def test_zeros_of_a_matrix_are_empty():
  page = Page(charts.heat(np.array([[0.5, 0.0], [0.004, 1.0]]), ["a", "b"], ["c", "<d>"]))
  assert re.findall(r"\d+", page.text) == ["50", "100"] and "<d>" in page.text


def test_bars_are_as_long_as_their_part():
  text = charts.bars([("a → b", 3, "3 ×"), ("c", 6, "6 ×")], 6)
  assert re.findall(r"width:([\d.]+)%", text) == ["50.0", "100.0"]
  Page(text)
