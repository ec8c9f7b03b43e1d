"""The command: what it prints and writes, and what it refuses."""

import json
import os
import subprocess
import sys

import pytest

SMALL = [
  "--config=demo:base",
  "--topology=cpu:2",
  "--programs=inference",
  "--canvas=64x64",
  "--config.model.backbone.stage_blocks=(1,1,1)",
]


def plan(*arguments):
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  command = [sys.executable, "-m", "rkd_jax.plan", *arguments]
  return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_page_and_a_file(tmp_path):
  file = tmp_path / "plan.json"
  done = plan(*SMALL, f"--output={file}", f"--hlo={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert "inference on 2 cpu: classes 80, batch 2, canvas 64x64" in done.stdout
  assert (tmp_path / "inference.hlo.txt").read_text().startswith("HloModule")
  (row,) = json.loads(file.read_text())["programs"]
  assert (row["program"], row["batch"], row["problem"]) == ("inference", 2, "")


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    ("--batch=3", "A batch of 3 images does not divide over 2 devices"),
    (
      "--programs=box,boxes",
      "--programs names boxes; expected some of box, image,",
    ),
  ],
)
def test_what_cannot_be_is_refused_with_a_sentence(arguments, sentence):
  done = plan(*SMALL, arguments)
  assert done.returncode == 1
  assert sentence in done.stdout + done.stderr and "Traceback" not in done.stderr
