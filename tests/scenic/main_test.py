"""RKD as a project of Scenic, on a stand-in for Scenic's interfaces."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.runs.restore import restore_state
from rkd_jax.train.tasks import detector_task
from rkd_jax.train.train import Trainer, train

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.door


def _run(root, workdir, *flags):
  config = REPOSITORY / "tests" / "tiny.py"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "rkd_jax.scenic.main"),
      f"--config=rkd_jax/scenic/config.py:{config}:{root}",
      f"--workdir={workdir}",
      *flags,
    ],
    cwd=REPOSITORY,
    env={**os.environ, "SCENIC_PATH": str(REPOSITORY / "tests" / "scenic_stand_in")},
    capture_output=True,
    text=True,
    check=False,
  )
  return done


def test_it_trains_as_our_own_command_does_and_either_goes_on(root, tmp_path):
  ours, theirs = tmp_path / "ours", tmp_path / "theirs"
  theirs.mkdir()
  config = tiny.get_config(str(root))
  expected = train(config, str(ours))
  done = _run(root, theirs)
  assert done.returncode == 0, done.stderr[-2000:]
  lines = [json.loads(line) for line in (theirs / "scenic.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == list(range(1, 13))
  assert {name.split("/")[0] for line in lines for name in line} == {"step", "box", "image"}
  assert (theirs / "config.json").read_bytes() == (ours / "config.json").read_bytes()

  shutil.rmtree(ours / "checkpoints" / "12")
  assert _run(root, ours).returncode == 0
  abstract = Trainer(config, detector_task(config)).abstract_state
  for folder in (ours, theirs):
    params = restore_state(folder, abstract).params
    jax.tree.map(np.testing.assert_array_equal, params, expected.params)


def test_a_loss_that_is_not_finite_ends_it_with_a_sentence(root, tmp_path):
  done = _run(root, tmp_path, "--config.optimizer.learning_rate=1e30")
  assert done.returncode != 0 and "which is not finite. Lower optimizer.learning" in done.stderr
  assert latest_step(tmp_path) is None
