"""Processes that train together, started as users do, on this machine with eight fake devices."""

import json
import shutil
import signal
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest
import tiny
from jax.experimental.compilation_cache import compilation_cache
from processes import SECONDS, Processes

from rkd_jax.benchmark.synthetic import ellipses
from rkd_jax.data.shapes_ovd import vocabulary
from rkd_jax.data.shapes_ovd.shapes_ovd import SceneEntry, SceneSplit
from rkd_jax.frozen.clip import TOKENIZER_FILE
from rkd_jax.machine import cluster
from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.runs.metrics import METRICS_FILE, read_metrics
from rkd_jax.runs.restore import restore_state
from rkd_jax.train import train as train_lib
from rkd_jax.train.tasks import make_task

CONFIG = "tests/tiny.py:{root},lvis"
STEPS = 20
TIMEOUT_S = 20
LOST = "Another process of this run has ended"
# What JAX says where it is the first to notice that process 0 is gone.
LOST_TO_JAX = "This most likely indicates that another task died"


def _config(root):
  config = tiny.get_config(f"{root},lvis")
  config.num_steps = STEPS
  return config


class Training(Processes):
  """A run in several processes with eight devices together."""

  def __init__(self, root, workdir, count, flags=(), flags_of=None, config=CONFIG):
    self.workdir = workdir
    settings = [f"--config={config.format(root=root)}", f"--workdir={workdir}", *flags]
    settings += [f"--config.hosts.timeout_seconds={TIMEOUT_S}", f"--config.num_steps={STEPS}"]
    logs = workdir.with_name(f"{workdir.name} logs")
    command = ("-m", "rkd_jax.main", *settings)
    super().__init__(logs, *command, count=count, devices=8 // count, flags_of=flags_of)

  def lines(self) -> int:
    """Lines that are of a step's losses."""
    file = self.workdir / METRICS_FILE
    lines = file.read_bytes().splitlines() if file.exists() else []
    return sum(b'"loss"' in line for line in lines)

  def when(self, lines: int) -> None:
    """Returns when there are so many lines of metrics."""
    limit = time.monotonic() + SECONDS
    while self.lines() < lines:
      assert all(process.poll() is None for process in self.processes), self.output()
      assert time.monotonic() < limit, self.output()
      time.sleep(0.02)

  def output(self) -> list[str]:
    return [out + err for out, err in self.said()]


def _build_data(root):
  """Scenes with an ellipse in each box, and how many images of each class there might be."""
  load = SceneEntry.load

  def outlined(entry, *limit):
    fields = load(entry)
    return fields | {"polygons": [[outline] for outline in ellipses(fields["boxes"])]}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(SceneSplit, "has_polygons", True)
    patch.setattr(SceneEntry, "load", outlined)
    tiny.build_data(root)
  counts = [{"name": name, "image_count": 1 + len(name)} for name in vocabulary.CLASS_NAMES]
  (root / "image_counts.json").write_text(json.dumps(counts))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Folder with the data set and the cache of compiled steps, which is in use meanwhile."""
  path = tmp_path_factory.mktemp("tiny")
  _build_data(path)
  cache = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", _config(path).compilation_cache)
  compilation_cache.reset_cache()
  yield path
  jax.config.update("jax_compilation_cache_dir", cache)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def restored(root):
  """What a run has saved last, as NumPy arrays."""
  trainer = train_lib.Trainer(_config(root), make_task(_config(root), str(root)))

  def restore(workdir):
    state = jax.device_get(restore_state(workdir, trainer.abstract_state))
    assert int(state.step) == STEPS
    return state

  return restore


@pytest.fixture(scope="module")
def alone(root):
  """The run of one process."""
  train_lib.train(_config(root), str(root / "alone"))
  return root / "alone"


@pytest.fixture(scope="module")
def both(root):
  """The run of two processes."""
  with Training(root, root / "both", 2) as run:
    assert run.wait() == [0, 0], run.output()
  return run.workdir


def _assert_close(restored, one, other):
  for want, got in zip(
    read_metrics(one / METRICS_FILE), read_metrics(other / METRICS_FILE), strict=True
  ):
    assert got.keys() == want.keys()
    for name, value in want.items():
      if name != "kind":
        assert got[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, rtol=0, atol=1e-5),
    restored(other).params,
    restored(one).params,
  )


@pytest.mark.hosts
def test_two_processes_train_as_one_does(restored, alone, both):
  _assert_close(restored, alone, both)
  assert {file.name for file in both.iterdir()} == {file.name for file in alone.iterdir()}
  assert len(list((both / "tensorboard").iterdir())) == 1


@pytest.mark.hosts
def test_so_do_four(root, restored, alone):
  with Training(root, root / "four", 4) as run:
    assert run.wait() == [0] * 4, run.output()
  _assert_close(restored, alone, run.workdir)


@pytest.mark.hosts
def test_two_go_on_where_one_stopped(root, restored, alone):
  workdir = root / "one then two"
  shutil.copytree(alone, workdir)
  shutil.rmtree(workdir / "checkpoints" / str(STEPS))
  with Training(root, workdir, 2) as run:
    assert run.wait() == [0, 0], run.output()
  _assert_close(restored, alone, workdir)


@pytest.mark.hosts
def test_one_goes_on_where_two_stopped(root, restored, alone, both):
  workdir = root / "two then one"
  shutil.copytree(both, workdir)
  shutil.rmtree(workdir / "checkpoints" / str(STEPS))
  assert latest_step(workdir) == STEPS - 4
  train_lib.train(_config(root), str(workdir))
  _assert_close(restored, alone, workdir)


@pytest.mark.hosts
def test_sigterm_to_either_stops_both_at_one_step_and_they_go_on_to_the_last_bit(
  root, restored, both
):
  workdir = root / "terminated"
  for index, lines in ((0, 1), (1, 7)):
    with Training(root, workdir, 2) as run:
      run.when(lines)
      run.processes[index].send_signal(signal.SIGTERM)
      assert run.wait(60) == [143, 143], run.output()
    saved = latest_step(workdir)
    assert lines < saved < STEPS
    assert read_metrics(workdir / METRICS_FILE) == read_metrics(both / METRICS_FILE)[:saved]
  with Training(root, workdir, 2) as run:
    assert run.wait() == [0, 0], run.output()
  assert read_metrics(workdir / METRICS_FILE) == read_metrics(both / METRICS_FILE)
  jax.tree.map(np.testing.assert_array_equal, restored(workdir), restored(both))


@contextmanager
def _clip_trains(root, workdir):
  """Two processes, both in the midst of it."""
  flags = ("--config.data.caption.split=train_images", "--config.data.caption.batch_size=8")
  flags += ("--config.clip.vision_width=8", "--config.clip.transformer_layers=1")
  with Training(root, workdir, 2, flags, config="configs/demo.py:clip,root={root}") as run:
    run.when(2)
    yield run
  assert (workdir / TOKENIZER_FILE).exists()


@pytest.mark.hosts
@pytest.mark.parametrize("killed", [0, 1])
def test_the_end_of_one_process_ends_the_other_with_a_sentence(root, killed):
  with _clip_trains(root, root / f"killed {killed}") as run:
    run.processes[killed].kill()
    codes = run.wait(TIMEOUT_S)
  assert codes[killed] == -signal.SIGKILL and codes[1 - killed] not in (0, -signal.SIGKILL)
  said = run.output()[1 - killed]
  assert LOST in said or (killed == 0 and LOST_TO_JAX in said)


@pytest.mark.hosts
@pytest.mark.parametrize("stopped", [0, 1])
def test_so_does_one_that_stands_still(root, stopped):
  with _clip_trains(root, root / f"stopped {stopped}") as run:
    run.processes[stopped].send_signal(signal.SIGSTOP)
    # As long as it may be silent, and some time for a busy machine.
    assert run.processes[1 - stopped].wait(2 * TIMEOUT_S) == 1
    assert run.processes[stopped].poll() is None
    run.processes[stopped].send_signal(signal.SIGCONT)
    assert run.processes[stopped].wait(TIMEOUT_S) != 0
  said = run.output()[1 - stopped].splitlines()[-1]
  assert f"Process {stopped} of this run has given no sign of life for {TIMEOUT_S} s (" in said


@pytest.mark.hosts
@pytest.mark.parametrize(
  "flags, flags_of, index, message",
  [
    (
      (),
      {1: ("--config.optimizer.learning_rate=0.5", "--config.seed=3")},
      1,
      "ValueError: Process 1 was started with other settings than process 0: "
      "config.optimizer.learning_rate, config.seed. Start all with the same command",
    ),
    (
      ("--config.data.image.batch_size=12",),
      {},
      0,
      "ValueError: A batch of 12 images does not divide over 8 devices: change the batch size",
    ),
  ],
)
def test_what_no_process_can_do_is_said_once(root, tmp_path, flags, flags_of, index, message):
  with Training(root, tmp_path / "run", 2, flags, flags_of) as run:
    assert run.wait(120) == [1, 1], run.output()
  output = run.output()
  assert output[index].rstrip().splitlines()[-1].startswith(message)
  assert "Error" not in output[1 - index] and LOST not in "".join(output)


@pytest.mark.hosts
def test_a_coordinator_that_does_not_answer_is_named(root, tmp_path):
  flags = ("--config.hosts.start_seconds=2", "--process_count=2", "--process_id=1")
  with Training(root, tmp_path / "run", 1, flags_of={0: flags}) as run:
    assert run.wait(60) == [1]
  (said,) = run.output()
  assert "After 2 s not all processes of this run have met at localhost:" in said
  assert "Traceback" not in said and not run.workdir.exists()


@pytest.mark.parametrize(
  "given, message",
  [
    (("host:1234", None, None), "go together: give all"),
    ((None, 1, 2), "go together: give all"),
    (("host", 0, 2), "--coordinator=host --process_id=0 --process_count=2: expected HOST:PORT"),
    (("host:1234", 2, 2), "ids from 0 to the count less 1"),
  ],
)
def test_flags_that_say_too_little_are_refused(given, message):
  with pytest.raises(ValueError, match=message), cluster.joined(_config("unused").hosts, *given):
    pass


@pytest.mark.parametrize(
  "environment, several",
  [
    ({}, False),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False),  # a script of sbatch, outside of srun
    ({"SLURM_STEP_NODELIST": "node7", "SLURM_NTASKS": "1"}, False),
    ({"SLURM_STEP_NODELIST": "node[1-4]", "SLURM_NTASKS": "4"}, True),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
  ],
)
def test_a_process_alone_joins_nobody(monkeypatch, environment, several):
  for name in ("SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_SERVICE_HOST"):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  asked = []
  monkeypatch.setattr(cluster, "_initialize", lambda *given: asked.append(given))
  with cluster.joined(_config("unused").hosts):
    pass
  assert len(asked) == several
  with cluster.joined(_config("unused").hosts, process_count=1):
    assert len(asked) == several


def test_where_jax_chooses_tpus_it_is_asked_for_others(monkeypatch):
  asked = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: asked.append(given))
  monkeypatch.setattr(cluster, "_has_tpu", lambda: True)
  with cluster.joined(_config("unused").hosts):
    assert asked == [(None, None, None)]


def test_alone_an_error_is_just_raised():
  with pytest.raises(KeyError), cluster.together():
    raise KeyError
  cluster.check_same({"config": {}})
