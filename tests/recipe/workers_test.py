"""Processes beside: the same order, their log, and their end with the block."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny_rows import order_of

from rkd_jax.recipe import recipes, workers
from rkd_jax.recipe.order import Order
from rkd_jax.recipe.run import jobs_of

REPOSITORY = Path(__file__).parents[2]


def test_a_worker_is_asked_for_the_same(tmp_path):
  settings = {"num_steps": 20, "name": "two words"}
  rows = tuple(recipes.DEMO.chosen(["rkd_rpn", "fused"]))
  order = Order(recipes.DEMO, str(tmp_path), (1, 0), rows, settings=settings)
  command = [sys.executable, *workers.command_of(order), "--dry_run"]
  said = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
  assert said.stdout.splitlines() == [f"to do  {job.title}" for job in jobs_of(order)]


@pytest.mark.parametrize("fails", [False, True])
def test_workers_end_with_the_block(tmp_path, monkeypatch, fails):
  # It would go on for a minute; on SIGTERM it says so.
  program = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('asked to end', flush=True), sys.exit(143)))\n"
    "print('works', flush=True)\n"
    f"time.sleep({60 if fails else 0})\n"
  )
  monkeypatch.setattr(workers, "command_of", lambda order: ["-c", program])
  root = tmp_path / "new"
  log = root / "worker-1.log"
  try:
    with workers.helped(order_of(root), 2):
      while "works" not in log.read_text():
        pass
      if fails:
        raise KeyboardInterrupt
  except KeyboardInterrupt:
    assert fails
  assert log.read_text().split("\n")[:-1] == (["works", "asked to end"] if fails else ["works"])


def test_one_process_alone_starts_none(tmp_path, monkeypatch):
  monkeypatch.setattr(subprocess, "Popen", None)
  with workers.helped(order_of(tmp_path), 1):
    assert not list(tmp_path.iterdir())


def test_where_there_can_be_no_workers(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"--workers=2 needs a --root on this machine, not gs://b/x"):
    workers.check_workers(order_of("gs://b/x"), 2)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  with pytest.raises(ValueError, match=r"--workers=2: a process takes the whole gpu"):
    workers.check_workers(order_of(tmp_path), 2)
  workers.check_workers(order_of(tmp_path), 1)
