"""The demo's sections: the component table on the page and in the terminal, similarities."""

import numpy as np
import pytest
from html_page import Page

from rkd_jax.pictures import components
from rkd_jax.pictures.components import Row


def result(novel, base, whole):
  return {"AP50_novel": novel, "AP50_base": base, "AP50_all": whole}


ROWS = [
  Row("Base", [result(30.0, 94.0, 77.0)]),
  Row("RKD", [result(70.04, 92.0, 86.0)]),
  Row("RKD + ILS", [result(69.98, None, 86.5)]),
  Row("RKD, longer", [result(99.0, 99.0, 99.0)], control=True),
]


def test_terminal_table():
  assert components.format_table(ROWS).splitlines() == [
    "AP50 (%)",
    "-" * 43,
    "method                 novel   base    all",
    "-" * 43,
    "Base                    30.0   94.0*  77.0",
    "RKD                     70.0*  92.0   86.0",
    "RKD + ILS               70.0*     –   86.5*",
    "RKD, longer (control)   99.0   99.0   99.0",
    "-" * 43,
  ]


def test_several_seeds_give_mean_and_sample_deviation():
  rows = [
    Row("Base", [result(10, 20, 30), result(14, 20, 30)]),
    Row("RKD", [result(20, 20, None)]),
  ]
  table = components.format_table(rows)
  # Two values at distance 4: mean 12, standard deviation 2·√2.
  assert "12.0 ± 2.8" in table
  assert "Mean ± standard deviation over 2 seeds." in table


def test_a_single_row_has_no_best():
  assert "*" not in components.format_table(ROWS[:1])


def test_the_section_marks_the_best_and_escapes_names():
  rows = [*ROWS, Row("<b>RKD</b>", [result(1, 2, 3)])]
  page = Page(components.component_section(rows, ["5 < 6 & more"]))
  assert page.strong == ["94.0", "70.0", "70.0", "86.5"]
  assert "b" not in page.tags and "<b>RKD</b>" in page.text and "5 < 6 & more" in page.text


def test_similarities_are_a_picture():
  page = Page(components.similarity_section({"CLIP": np.eye(2), "RKD": np.eye(2)}, ["a", "b"]))
  assert len(page.sources) == 1 and "closer a detector's pattern is to CLIP's" in page.text


def test_bad_rows_are_refused():
  with pytest.raises(ValueError, match="at least one row"):
    components.format_table([])
  with pytest.raises(ValueError, match="same method name"):
    components.format_table([ROWS[0], ROWS[0]])
  with pytest.raises(ValueError, match="row 'RKD': a result lacks 'AP50_novel'"):
    components.component_section([Row("RKD", [{"AP50_base": 1.0}])], [])
