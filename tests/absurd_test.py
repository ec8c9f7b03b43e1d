"""Images that nobody should have, through every command: an answer soon, in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import absurd, tiny_coco

REPOSITORY = Path(__file__).parents[1]
COMMANDS = ("predict", "builder", "training", "precompute")
pytestmark = pytest.mark.faults


def run(root, *command):
  environment = {**os.environ, "XLA_FLAGS": "", "TQDM_DISABLE": "1"}
  return subprocess.run(
    [sys.executable, "-W", "ignore", "-m", *command],
    cwd=REPOSITORY,
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
  )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
  root = tmp_path_factory.mktemp("absurd")
  tiny_coco.build_data(root)
  done = run(root, "rkd_jax.main", f"--config=tests/tiny_coco.py:{root}", f"--workdir={root}/run")
  assert done.returncode == 0, done.stderr
  done = run(root, "tests.absurd", str(root))
  assert done.returncode == 0, done.stderr
  rows = map(json.loads, filter(lambda line: line.startswith("{"), done.stdout.splitlines()))
  return {(row["name"], row["command"]): row for row in rows}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", absurd.files())
def test_an_absurd_image_is_read_or_refused(outcomes, name, command):
  row, size = outcomes[name, command], absurd.files()[name][1]
  assert row["mb"] < 1024 and row["seconds"] < 10, row
  if size is None:
    # The offline step and training know an image by its record.
    named = "0.jpg" if command in ("training", "precompute") else name
    assert "Error: " in row["result"] and named in row["result"], row
  else:
    assert row["result"] == list(size), row
