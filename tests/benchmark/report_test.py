"""The table on the screen and the JSON beside it."""

import json

from rkd_jax.benchmark.report import Report


def test_the_table_is_aligned_and_the_json_is_whole_after_every_row(tmp_path, capsys):
  path = tmp_path / "folder" / "bench.json"
  report = Report({"name": "x"}, str(path), hidden={"config": {"a": 1}})
  report.section("title")
  report.row("first", {"seconds": 0.0125, "bound": "memory"})
  assert json.loads(path.read_text()) == {
    "name": "x",
    "config": {"a": 1},
    "rows": [{"section": "title", "name": "first", "seconds": 0.0125, "bound": "memory"}],
  }
  report.note("no more")
  assert json.loads(path.read_text())["rows"][1] == {"section": "title", "note": "no more"}
  lines = capsys.readouterr().out.splitlines()
  heads = next(line for line in lines if "min ms" in line)
  row = next(line for line in lines if line.startswith("first"))
  assert row.split() == ["first", "12.50", "memory"]
  assert row.index("12.50") + len("12.50") == heads.index(" ms") + len(" ms")
  assert row.endswith("memory") and len(row) == len(heads)


def test_a_row_of_several_images_says_how_many_a_second(capsys):
  report = Report({})
  report.row("pair", {"seconds": 0.5}, images=2)
  assert report.rows == [
    {"section": "", "name": "pair", "seconds": 0.5, "images_per_s": 4.0, "batch": 2}
  ]
  assert capsys.readouterr().out.split() == ["pair", "500.00", "4.00"]
