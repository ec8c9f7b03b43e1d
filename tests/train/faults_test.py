"""Whatever happens to a run, its numbers are those of a run to which nothing happened."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from rkd_jax.inputs.plan import make_plan
from rkd_jax.runs.checkpoint import CheckpointError, latest_step, steps_of
from rkd_jax.runs.lock import WorkdirInUseError
from rkd_jax.runs.metrics import METRICS_FILE, read_metrics
from rkd_jax.runs.restore import restore_state
from rkd_jax.train import train as train_lib
from rkd_jax.train.tasks import make_task

pytestmark = pytest.mark.faults
REPOSITORY = Path(__file__).parents[2]
STEPS = 60


def _config(root):
  config = tiny.get_config(str(root))
  config.num_steps, config.checkpoint.every = STEPS, 4
  return config


def _command(root, workdir, *flags):
  command = [sys.executable, "-m", "rkd_jax.main", f"--config=tests/tiny.py:{root}"]
  command += [f"--workdir={workdir}", f"--config.num_steps={STEPS}", "--config.checkpoint.every=4"]
  return [*command, *flags]


root = pytest.fixture(scope="module")(tiny.root)


@pytest.fixture(scope="module")
def whole(root):
  """The workdir of a run to which nothing happened."""
  train_lib.train(_config(root), str(root / "whole"))
  return root / "whole"


def _check_like(root, workdir, whole):
  """The same metrics of all steps, and the same last state, to the last bit."""
  assert read_metrics(workdir / METRICS_FILE) == read_metrics(whole / METRICS_FILE)
  config = _config(root)
  abstract = train_lib.Trainer(config, make_task(config, str(root))).abstract_state
  states = [jax.device_get(restore_state(path, abstract)) for path in (workdir, whole)]
  assert int(states[0].step) == STEPS
  jax.tree.map(np.testing.assert_array_equal, *states)


def _lines(workdir):
  file = workdir / METRICS_FILE
  return file.read_bytes().count(b"\n") if file.exists() else 0


def test_killed_ten_times_at_random_moments(root, whole, tmp_path):
  rng, kills = random.Random(0), 0
  for _ in range(30):
    before = _lines(tmp_path)
    with subprocess.Popen(
      _command(root, tmp_path), cwd=REPOSITORY, stderr=subprocess.DEVNULL
    ) as process:
      # At once or while it starts, and later while it trains and saves.
      if rng.random() < 0.7:
        limit = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < limit and _lines(tmp_path) <= before:
          time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
      else:
        time.sleep(rng.random() * 5)
      process.kill()
    kills += process.returncode == -signal.SIGKILL
    if kills == 10 or process.returncode == 0:
      break
  assert kills == 10, "it ended too early to be killed ten times"
  train_lib.train(_config(root), str(tmp_path))
  _check_like(root, tmp_path, whole)


_KILLED_IN_A_SAVE = """
import os, signal, sys, threading
import tiny
from rkd_jax.runs import checkpoint
from rkd_jax.train import train as train_lib

root, workdir, steps, delay = sys.argv[1:]
save = checkpoint.Checkpointer.save
def killed(self, state):
  if int(state.step) == 12:
    threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL)).start()
  save(self, state)
  if int(state.step) == 12:
    self.close()
    signal.pause()
checkpoint.Checkpointer.save = killed
config = tiny.get_config(root)
config.num_steps, config.checkpoint.every = int(steps), 4
train_lib.train(config, workdir)
"""


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
def test_killed_inside_a_save(root, whole, tmp_path, delay):
  environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
  command = [sys.executable, "-c", _KILLED_IN_A_SAVE]
  command += [str(root), str(tmp_path), str(STEPS), str(delay)]
  done = subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False)
  assert done.returncode == -signal.SIGKILL
  assert set(steps_of(tmp_path)) <= {4, 8, 12}
  train_lib.train(_config(root), str(tmp_path))
  _check_like(root, tmp_path, whole)


def test_terminated(root, whole, tmp_path):
  with subprocess.Popen(
    _command(root, tmp_path), cwd=REPOSITORY, stderr=subprocess.DEVNULL
  ) as process:
    while process.poll() is None and _lines(tmp_path) < 5:
      time.sleep(0.01)
    process.terminate()
  assert process.returncode == 143
  train_lib.train(_config(root), str(tmp_path))
  _check_like(root, tmp_path, whole)


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints(root, whole, tmp_path, damaged, caplog):
  """Of two, the newest or both: the run goes on from the one before, or says that none is left."""
  workdir = shutil.copytree(whole, tmp_path / "run")
  for step in steps_of(workdir)[-damaged:]:
    for file in (workdir / "checkpoints" / str(step) / "variables" / "d").iterdir():
      file.write_bytes(file.read_bytes()[:-7])
  if damaged == 2:
    with pytest.raises(CheckpointError, match=r"is damaged: .* No other checkpoint can be read"):
      train_lib.train(_config(root), str(workdir))
    return
  train_lib.train(_config(root), str(workdir))
  assert any("checkpoints/60 is damaged" in message for message in caplog.messages)
  assert (workdir / "damaged" / "60").exists()
  _check_like(root, workdir, whole)


@contextlib.contextmanager
def _full_disk(size):
  """No file of this process may become longer, which is an error as that of a full disk."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("until", [30, STEPS + 1])
def test_a_disk_that_is_full_for_a_while_or_to_the_end(
  root, whole, tmp_path, monkeypatch, caplog, until
):
  update_of, full = train_lib.Trainer.update, contextlib.ExitStack()

  def update(self, packed, batch, kind):
    step = int(self.state(packed).step)
    if step == 10:
      full.enter_context(_full_disk(2000))
    if step == until:
      full.close()
    return update_of(self, packed, batch, kind)

  monkeypatch.setattr(train_lib.Trainer, "update", update)
  with full:
    if until > STEPS:
      with pytest.raises((CheckpointError, OSError), match=r"could not be (saved|written)"):
        train_lib.train(_config(root), str(tmp_path))
    else:
      train_lib.train(_config(root), str(tmp_path))
  failed = [m for m in caplog.messages if re.match(r"Step \d+ could not be saved", m)]
  first = int(failed[0].split()[1])
  assert first in (8, 12)  # the former may still be under way
  assert "bytes are to be written, and" in failed[0] and "next save tries again" in failed[0]
  assert all(f"the newest one is of step {first - 4}" in message for message in failed)
  if until > STEPS:
    assert latest_step(tmp_path) == first - 4
    monkeypatch.undo()
    train_lib.train(_config(root), str(tmp_path))
  _check_like(root, tmp_path, whole)


def test_a_disk_without_room_is_refused_before_the_first_step(root, tmp_path, monkeypatch):
  monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100, 95, 5))
  with pytest.raises(CheckpointError, match=r"need [\d,]+ bytes more, and 5 are free\. Make room"):
    train_lib.train(_config(root), str(tmp_path))
  assert not (tmp_path / METRICS_FILE).exists()


def test_two_runs_in_one_workdir(root, whole, tmp_path):
  with subprocess.Popen(
    _command(root, tmp_path), cwd=REPOSITORY, stderr=subprocess.DEVNULL
  ) as first:
    while first.poll() is None and not _lines(tmp_path):
      time.sleep(0.01)
    with pytest.raises(WorkdirInUseError, match=rf"in use: process {first.pid} on .* since 2"):
      train_lib.train(_config(root), str(tmp_path))
  assert first.returncode == 0
  _check_like(root, tmp_path, whole)


def test_a_workdir_that_can_only_be_read(root, whole, tmp_path):
  workdir = shutil.copytree(whole, tmp_path / "run")
  shutil.rmtree(workdir / "tensorboard")
  before = {f: f.stat().st_mtime_ns for f in workdir.rglob("*")}
  flags = ["--mode=eval", "--config.data.eval.split=validation"]
  # Root may write everywhere: it is the file system that says no, where it can be asked to.
  command = _command(root, workdir, *flags)
  script = f"mount --bind {workdir} {workdir} && mount -o remount,ro,bind {workdir} && exec "
  namespace = ["unshare", "-rm", "sh", "-c", script + '"$@"', "sh"]
  tried = subprocess.run([*namespace, "true"], capture_output=True, text=True, check=False)
  if tried.returncode:
    pytest.skip(f"no file system can be mounted for reading only here: {tried.stderr}")
  done = subprocess.run(
    [*namespace, *command], cwd=REPOSITORY, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert '"AP50_all"' in done.stdout and "could not be written" in done.stderr
  assert {f: f.stat().st_mtime_ns for f in workdir.rglob("*")} == before


def test_moved_data(root, whole, tmp_path):
  workdir = shutil.copytree(whole, tmp_path / "run")
  shutil.rmtree(workdir / "checkpoints" / str(STEPS))
  moved = tmp_path / "elsewhere"
  shutil.copytree(root, moved, ignore=shutil.ignore_patterns("whole", "jax_cache"))
  config = _config(moved)
  config.compilation_cache = _config(root).compilation_cache
  train_lib.train(config, str(workdir))
  _check_like(root, workdir, whole)


def test_missing_teachers_are_named_before_the_first_step(root, tmp_path):
  config = _config(root)
  config.data.teachers = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"nowhere.*rkd_jax\.precompute"):
    train_lib.train(config, str(tmp_path / "run"))
  assert not (tmp_path / "run" / METRICS_FILE).exists()


def test_too_many_boxes_are_named_before_the_first_step(root, tmp_path):
  config = _config(root)
  plan = make_plan(config)
  most = int(plan.sources["box"].index.num_boxes.max())
  config.data.box.max_boxes = most - 1
  with pytest.raises(
    ValueError, match=rf"have more boxes than .* has {most} boxes.*Set it to {most}"
  ):
    train_lib.train(config, str(tmp_path / "run"))
  assert not (tmp_path / "run" / METRICS_FILE).exists()


def test_a_corrupt_record_is_named_and_the_run_goes_on_once_it_is_mended(root, whole, tmp_path):
  data = tmp_path / "root"
  shutil.copytree(root, data, ignore=shutil.ignore_patterns("whole", "jax_cache"))
  config = _config(data)
  config.compilation_cache = _config(root).compilation_cache
  [shard] = [f for f in data.rglob("*.array_record*") if "shapes_ovd-train_boxes" in f.name]
  sound = shard.read_bytes()
  damaged = bytearray(sound)
  for place in range(len(damaged) // 2, len(damaged) // 2 + 64):
    damaged[place] ^= 0xFF
  shard.write_bytes(damaged)
  with pytest.raises(ValueError, match=rf"{shard.parent}.*build"):
    train_lib.train(config, str(tmp_path / "run"))
  shard.write_bytes(sound)
  train_lib.train(config, str(tmp_path / "run"))
  _check_like(root, tmp_path / "run", whole)
