"""The table on the screen and the JSON beside it."""

import json

from ml_collections import ConfigDict

from rkd_jax.benchmark.report import Options, Report


def test_the_table_is_aligned_and_the_json_is_whole_after_every_row(tmp_path, capsys):
  path = tmp_path / "folder" / "bench.json"
  report = Report("x", Options(output=str(path)), ConfigDict({"a": 1}), records="few")
  report.section("title")
  report.row("first", {"seconds": 0.0125, "bound": "memory"})
  content = json.loads(path.read_text())
  assert (content["name"], content["config"], content["records"]) == ("x", {"a": 1}, "few")
  assert content["machine"]["device"] == "cpu" and "arguments" in content
  first = {"section": "title", "name": "first", "seconds": 0.0125, "bound": "memory"}
  assert content["rows"] == report.rows == [first]
  report.note("no more")
  assert json.loads(path.read_text())["rows"][1] == {"section": "title", "note": "no more"}
  lines = capsys.readouterr().out.splitlines()
  assert "name: x" in lines and "records: few" in lines
  heads = next(line for line in lines if "min ms" in line)
  row = next(line for line in lines if line.startswith("first"))
  assert row.split() == ["first", "12.50", "memory"]
  assert row.index("12.50") + len("12.50") == heads.index(" ms") + len(" ms")
  assert row.endswith("memory") and len(row) == len(heads)


def test_a_row_of_several_images_says_how_many_a_second(capsys):
  report = Report("x", Options())
  capsys.readouterr()
  report.row("pair", {"seconds": 0.5}, images=2)
  assert report.rows == [
    {"section": "", "name": "pair", "seconds": 0.5, "images_per_s": 4.0, "batch": 2}
  ]
  assert capsys.readouterr().out.split() == ["pair", "500.00", "4.00"]


def test_what_cannot_be_measured_is_a_line(capsys):
  report = Report("x", Options())
  assert report.attempt("torch", int, "7") == 7 and report.rows == []
  assert report.attempt("torch", int, "seven") is None
  note = "torch is not measured: ValueError: invalid literal for int() with base 10: 'seven'"
  assert report.rows == [{"section": "", "note": note}]
  assert capsys.readouterr().out.splitlines()[-1] == note
