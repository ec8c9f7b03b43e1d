"""The table: its numbers against NumPy, and what several processes write of one root."""

import json

import numpy as np
import pytest
from html_page import Page
from tiny_rows import order_of, write_run

from rkd_jax.recipe import table

RUNS = {0: (10.0, 20.0, 30.0), 1: (14.0, 22.0, 33.0), 5: (15.0, 27.0, 36.0)}


def write_runs(root):
  order = order_of(root, "base", "rkd", seeds=tuple(RUNS))
  for seed, values in RUNS.items():
    results = dict(zip(("AP50_novel", "AP50_base", "AP50_all"), values))
    write_run(order, "base", 4, seed, **results)
  write_run(order, "rkd", 2, 0, AP50_novel=None, AP50_base=3.0, AP50_all=4.0)
  return order


def test_statistics_of_seeds():
  found = table.statistics([10.0, 14.0, 15.0, None])
  assert found["seeds"] == [10.0, 14.0, 15.0, None]
  assert found["mean"] == pytest.approx(13.0) and found["median"] == 14.0
  assert found["spread"] == pytest.approx(np.sqrt((9 + 1 + 4) / 2))
  assert table.statistics([3.0])["spread"] is None
  assert table.statistics([None]) == {
    "seeds": [None],
    "mean": None,
    "spread": None,
    "median": None,
  }


def test_the_table_has_every_seed_and_the_papers_numbers(tmp_path):
  order = write_runs(tmp_path)
  table.write(order, table.collect(order))
  base = json.loads((tmp_path / "recipe.json").read_text())["rows"]["base"]
  assert base["seeds"] == [0, 1, 5] and base["steps"] == [4, 4, 4]
  novel = base["metrics"]["AP50_novel"]
  assert novel["seeds"] == [10.0, 14.0, 15.0] and novel["paper"] == 1.7
  assert (tmp_path / "recipe.md").read_text().splitlines()[-2:] == [
    "| base | 13.0 ± 2.6 | 23.0 ± 3.6 | 33.0 ± 3.0 | 1.7 | 53.2 | 39.6 | 10.0, 14.0, 15.0 |",
    "| RKD | – | 3.0 | 4.0 | – | – | – | – |",
  ]
  page = Page((tmp_path / "recipe.html").read_text())
  assert "13.0 ± 2.6" in page.text and "53.2" in page.text and "novel, paper" in page.text
  assert "13.0 ± 2.6*" in table.printed(order, table.collect(order))


def test_what_another_process_made_stays_in_the_table(tmp_path):
  order = write_runs(tmp_path)
  table.write(order, table.collect(order))
  other = order_of(tmp_path, "control", seeds=(7,))
  table.write(other, table.collect(other))
  rows = json.loads((tmp_path / "recipe.json").read_text())["rows"]
  assert list(rows) == ["base", "rkd", "control"]
  assert rows["base"]["seeds"] == [0, 1, 5] and rows["control"]["seeds"] == []
  page = (tmp_path / "recipe.html").read_text()
  assert "Not finished yet: RKD, longer." in page
