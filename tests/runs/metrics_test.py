"""Metrics files: bit-exact floats, resume, cut-off lines; the progress line."""

import io
import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.runs import metrics
from rkd_jax.runs.metrics import MetricWriter, Progress, read_metrics


def write_steps(folder, steps, start_step=0):
  with MetricWriter(folder, start_step) as writer:
    for step in steps:
      writer.write(step, "box", {"loss": step / 7})
  return folder / "metrics.jsonl"


def test_floats_come_back_to_the_last_bit(tmp_path):
  values = np.random.default_rng(0).standard_normal(50).astype(np.float32)
  values[:3] = np.finfo(np.float32).tiny, np.finfo(np.float32).max, np.nextafter(1, 2, dtype="f4")
  with MetricWriter(tmp_path, 0) as writer:
    for step, value in enumerate(values):
      writer.write(step, "box", {"loss": jnp.asarray(value), "seconds": step / 3})
  records = read_metrics(tmp_path / "metrics.jsonl")
  read = np.array([record["loss"] for record in records], np.float32)
  np.testing.assert_array_equal(read.view(np.int32), values.view(np.int32))
  assert records[1] == {"step": 1, "kind": "box", "loss": float(values[1]), "seconds": 1 / 3}


def test_lines_are_on_disk_before_close(tmp_path):
  with MetricWriter(tmp_path, 0) as writer:
    writer.write(0, "box", {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_resume_writes_each_step_once(tmp_path):
  write_steps(tmp_path, range(6))
  path = write_steps(tmp_path, range(4, 8), start_step=4)
  assert path.read_text() == write_steps(tmp_path / "whole", range(8)).read_text()


def test_resume_after_a_half_written_line(tmp_path):
  path = write_steps(tmp_path, range(3))
  path.write_text(path.read_text() + '{"step": 3, "kind": "bo')
  assert [record["step"] for record in read_metrics(path)] == [0, 1, 2]
  write_steps(tmp_path, [3], start_step=3)
  assert [record["step"] for record in read_metrics(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("line", ["{oops", '{"kind": "box"}', "[1, 2]", ""])
def test_malformed_middle_line_is_named(tmp_path, line):
  path = tmp_path / "metrics.jsonl"
  path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
  with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
    read_metrics(path)


def test_undefined_metric_is_null(tmp_path):
  with MetricWriter(tmp_path, 0) as writer:
    writer.write(0, "eval", {"AP50_novel": None, "images": 3})
  line = (tmp_path / "metrics.jsonl").read_text()
  assert json.loads(line) == {"step": 0, "kind": "eval", "AP50_novel": None, "images": 3}


def test_tensorboard_gets_the_scalars(tmp_path):
  write_steps(tmp_path, range(2))
  (events,) = (tmp_path / "tensorboard").iterdir()
  assert events.read_bytes().count(b"box/loss") == 2


@pytest.mark.parametrize(
  ("scalars", "message"),
  [
    ({"loss": np.float32("nan")}, r"step 3, kind 'box': metric 'loss' is nan"),
    ({"loss": jnp.inf}, r"metric 'loss' is inf"),
    ({"loss": {"a": 1}}, r"metric 'loss' is \{'a': 1\}, expected a scalar"),
    ({"loss": np.ones(2)}, r"expected a scalar"),
    ({"step": 1}, r"cannot be called 'step'"),
  ],
)
def test_bad_values_are_named_and_not_written(tmp_path, scalars, message):
  with MetricWriter(tmp_path, 0) as writer, pytest.raises(ValueError, match=message):
    writer.write(3, "box", scalars)
  assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.fixture
def clock(monkeypatch):
  """Advances when told."""
  clock = types.SimpleNamespace(now=0.0)
  clock.monotonic = lambda: clock.now
  monkeypatch.setattr(metrics, "time", clock)
  return clock


def test_progress_without_terminal_prints_a_line_every_10_seconds(clock, capsys):
  with Progress(8, 2, "rkd") as progress:
    for step in range(2, 8):
      clock.now += 8
      progress.update(16, {"loss": step / 2})
  assert capsys.readouterr().err.splitlines() == [
    "rkd 4/8 loss 1.5 2.0 img/s 00:32 left",
    "rkd 6/8 loss 2.5 2.0 img/s 00:16 left",
    "rkd 8/8 loss 3.5 2.0 img/s 00:00 left",
  ]


def test_a_last_line_is_printed_at_the_end(clock, capsys):
  with Progress(8, 2, "rkd") as progress:
    clock.now += 2
    progress.update(16, {"loss": 1})
  assert capsys.readouterr().err == "rkd 3/8 loss 1 8.0 img/s 00:10 left\n"


def test_rate_forgets_the_compilation(clock, capsys):
  progress = Progress(1000, 0, "base")
  clock.now = 60.0
  progress.update(8000, {})
  for _ in range(60):
    clock.now += 0.5
    progress.update(8, {})
  first, *_, last = capsys.readouterr().err.splitlines()
  assert "133.3 img/s" in first  # 8000 / 60
  assert "61/1000" in last and "16.0 img/s" in last
  assert "07:49 left" in last  # (1000 - 61) * 0.5 s


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
  stream = io.StringIO()
  stream.isatty = lambda: True
  monkeypatch.setattr(sys, "stderr", stream)
  with Progress(4, 0, "base") as progress:
    for _ in range(4):
      progress.update(8, {"loss": 0.25})
  last = stream.getvalue().split("\r")[-1]
  assert "4/4" in last and "loss 0.25" in last and "img/s" in last
