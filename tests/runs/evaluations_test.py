"""The best of a run's checkpoints: known by its evaluations, kept and found by name."""

import jax.numpy as jnp
import pytest

from rkd_jax.runs import evaluations
from rkd_jax.runs.checkpoint import Checkpointer, CheckpointError, run_and_step, steps_of
from rkd_jax.runs.state import TrainState


def _save(workdir, steps, **options):
  with Checkpointer(str(workdir), keep=1, **options) as checkpointer:
    for step in steps:
      checkpointer.save(TrainState(jnp.int32(step), {"w": jnp.ones(2)}, {}, ()))


def test_the_best_is_the_first_of_the_highest(tmp_path):
  assert evaluations.best_step(tmp_path, "AP") is None
  for step, value in ((10, 20.0), (2, 30.0), (30, 30.0), (40, None)):
    evaluations.record(tmp_path, step, {"AP": value, "per_class": {"cat": 1}})
  assert evaluations.best_step(tmp_path, "AP") == 2
  assert evaluations.best_step(tmp_path, "AP50") is None
  assert "per_class" not in (tmp_path / "evaluations.json").read_text()


def test_the_best_may_be_asked_for_among_some_steps(tmp_path):
  for step, value in ((0, 90.0), (2, 10.0), (4, 30.0), (6, 20.0)):
    evaluations.record(tmp_path, step, {"AP": value})
  assert evaluations.best_step(tmp_path, "AP", [2, 6, 8]) == 6
  assert evaluations.best_step(tmp_path, "AP", range(1, 5)) == 4
  assert evaluations.best_step(tmp_path, "AP", []) is None


def test_later_steps_are_forgotten_and_a_new_run_knows_nothing(tmp_path):
  evaluations.forget_after(tmp_path, 3)
  assert not (tmp_path / "evaluations.json").exists()
  for step in (0, 2, 4):
    evaluations.record(tmp_path, step, {"AP": 1.0})
  evaluations.forget_after(tmp_path, 2)
  assert list(evaluations.read(tmp_path)) == [0, 2]
  evaluations.forget_after(tmp_path, 0)
  assert evaluations.read(tmp_path) == {}


def test_a_damaged_file_is_named(tmp_path):
  (tmp_path / "evaluations.json").write_text("{")
  with pytest.raises(ValueError, match=r"evaluations\.json is damaged .*remove it"):
    evaluations.best_step(tmp_path, "AP")


def test_the_best_stays_beside_the_last(tmp_path):
  _save(tmp_path, [1, 2])
  assert steps_of(tmp_path) == [2]
  evaluations.record(tmp_path, 2, {"AP": 5.0})
  _save(tmp_path, [3, 4], best="AP")
  assert steps_of(tmp_path) == [2, 4]
  evaluations.record(tmp_path, 4, {"AP": 6.0})
  _save(tmp_path, [5], best="AP")
  assert steps_of(tmp_path) == [4, 5]


def test_latest_and_best_are_names(tmp_path):
  _save(tmp_path, [7])
  named = tmp_path / "checkpoints"
  assert run_and_step(named / "latest") == (tmp_path, None)
  assert run_and_step(named / "7") == (tmp_path, 7)
  with pytest.raises(CheckpointError, match=r"checkpoint\.best=METRIC"):
    run_and_step(named / "best")
  (tmp_path / "config.json").write_text('{"checkpoint": {"best": "AP"}}')
  evaluations.record(tmp_path, 7, {"AP": 1.0})
  evaluations.record(tmp_path, 0, {"AP": 9.0})  # before training, of which there is no checkpoint
  assert run_and_step(named / "best") == (tmp_path, 7)
