"""The command line, as a user meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from rkd_jax.evaluation.evaluate import evaluate
from rkd_jax.runs.checkpoint import CheckpointError

REPOSITORY = Path(__file__).parents[1]


def _main(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "rkd_jax.main", *arguments],
    cwd=REPOSITORY,
    env=os.environ,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  "override, nearest",
  [
    pytest.param("--config.num_step=3", 'Did you mean "num_steps"', marks=pytest.mark.full),
    pytest.param(
      "--config.optimiser.learning_rate=1", 'Did you mean "optimizer"', marks=pytest.mark.full
    ),
    ("--config.optimizer.lerning_rate=1", 'Did you mean "learning_rate"'),
  ],
)
def test_an_unknown_setting_fails_and_the_nearest_is_named(tmp_path, override, nearest):
  done = _main("--config=configs/demo.py", f"--workdir={tmp_path}/run", override)
  assert done.returncode != 0
  assert nearest in done.stderr.splitlines()[-1]
  assert not (tmp_path / "run").exists()


def test_a_setting_without_its_flag_is_refused(tmp_path):
  done = _main("--config=configs/demo.py", f"--workdir={tmp_path}", "num_steps=3")
  assert done.returncode != 0
  assert "Unexpected argument 'num_steps=3'; settings are given as --config.key=value" in (
    done.stdout + done.stderr
  )


def test_data_that_is_not_built_names_the_command(tmp_path):
  done = _main(f"--config=configs/demo.py:base,root={tmp_path}", f"--workdir={tmp_path}/run")
  assert done.returncode != 0
  assert (
    "Build it with: python -m rkd_jax.data.shapes_ovd.shapes_ovd" in done.stderr.splitlines()[-1]
  )


def test_training_needs_a_config_and_evaluation_does_not(tmp_path):
  done = _main(f"--workdir={tmp_path}")
  assert done.returncode != 0 and "Flags --config (but to evaluate) and --workdir" in done.stderr
  done = _main(f"--workdir={tmp_path}", "--mode=eval")
  assert done.returncode != 0
  assert "config.json is missing: expected the --workdir of a run" in done.stderr.splitlines()[-1]


def test_evaluation_without_a_checkpoint_says_so(tmp_path):
  tiny.build_data(tmp_path)
  with pytest.raises(CheckpointError, match=r"No checkpoint at .*/run: .*Train first"):
    evaluate(tiny.get_config(str(tmp_path)), str(tmp_path / "run"))
