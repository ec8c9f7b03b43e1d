"""The pace of a loop by a clock of the test's own, and the trace of its steps."""

import jax
import jax.numpy as jnp
import pytest

from rkd_jax.runs import pace as pace_lib
from rkd_jax.runs.pace import Pace, traced


@pytest.fixture
def clock(monkeypatch):
  """Seconds, which pass when the test says so."""
  now = [100.0]
  monkeypatch.setattr(pace_lib.time, "monotonic", lambda: now[0])
  monkeypatch.setattr(pace_lib.time, "thread_time", lambda: now[0] / 4)
  return now


def test_figures_are_of_the_time_since_the_last_ones(clock):
  def batches():
    for seconds in (1.0, 3.0, 2.0):
      clock[0] += seconds
      yield seconds

  pace, found = Pace(), []
  for _ in pace.timed(batches()):
    clock[0] += 1.0  # the step
    pace.count(8)
    found.append(pace.figures())
  assert found == [
    {"images_per_second": 4.0, "data_wait": 0.5, "host_seconds": 0.5},
    {"images_per_second": 2.0, "data_wait": 0.75, "host_seconds": 1.0},
    {"images_per_second": 8 / 3, "data_wait": 2 / 3, "host_seconds": 0.75},
  ]


def test_mfu_is_the_part_of_the_peak_that_was_used(clock):
  pace = Pace(peak=100.0)
  clock[0] += 4.0
  pace.count(8, 120)
  pace.count(8, 80)
  figures = pace.figures()
  assert figures["mfu"] == 200 / 4.0 / 100.0 and figures["host_seconds"] == 1.0 / 2
  clock[0] += 1.0
  assert pace.figures()["mfu"] == 0


def test_memory_is_that_of_the_fullest_device(monkeypatch):
  class Device:
    def __init__(self, used):
      self.memory_stats = lambda: used and {"bytes_in_use": used, "peak_bytes_in_use": 2 * used}

  monkeypatch.setattr(jax, "local_devices", lambda: [Device(3), Device(5), Device(None)])
  figures = Pace().figures()
  assert (figures["device_bytes"], figures["device_peak_bytes"]) == (5, 10)


@pytest.mark.parametrize("start, expected", [(0, [3, 4]), (4, [4]), (7, [])])
def test_the_trace_holds_its_steps_and_the_next(tmp_path, monkeypatch, start, expected):
  events, profiler = [], jax.profiler

  class Trace:
    def __init__(self, folder):
      assert folder == tmp_path / "profile" and folder.is_dir()

    def __enter__(self):
      events.append("start")

    def __exit__(self, *_):
      events.append("stop")

  monkeypatch.setattr(profiler, "trace", Trace)
  for step in traced(range(start, 9), start, (3, 5), tmp_path):
    events.append(step)
  inside = events[events.index("start") + 1 : events.index("stop")] if "start" in events else []
  assert inside == ([*expected, 5] if expected else [])
  assert [e for e in events if isinstance(e, int)] == list(range(start, 9))


def test_a_loop_that_ends_early_has_its_trace(tmp_path):
  steps = traced(range(9), 0, (1, 5), tmp_path)
  assert next(steps) == 0 and not (tmp_path / "profile").exists()
  assert next(steps) == 1
  jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.ones(3)))
  steps.close()
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("steps", [(3,), (5, 5), (-1, 4), (1, 2, 3)])
def test_steps_that_are_no_range_are_refused(tmp_path, steps):
  with pytest.raises(ValueError, match=r"profile_steps is \(.*as \(100, 103\)"):
    traced(range(9), 0, steps, tmp_path)


def test_a_pause_is_no_time(clock):
  pace = Pace()
  clock[0] += 1.0
  pace.count(8)
  with pace.paused():
    clock[0] += 50.0
  clock[0] += 1.0
  assert pace.figures() == {"images_per_second": 4.0, "data_wait": 0.0, "host_seconds": 0.5}
