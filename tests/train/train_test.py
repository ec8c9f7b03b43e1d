"""The loop on a tiny detector: killed, terminated, on fewer devices, with bad numbers.

Everything runs on the 8 fake devices of conftest.py, processes that are started
here too, so that one persistent cache of compiled steps serves all of them.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rkd_jax.inputs.batching import train_batches
from rkd_jax.machine import costs
from rkd_jax.machine.target import current
from rkd_jax.runs import evaluations
from rkd_jax.runs.checkpoint import CheckpointError, latest_step, steps_of
from rkd_jax.runs.metrics import METRICS_FILE, read_metrics
from rkd_jax.train import train as train_lib
from rkd_jax.train.tasks import Task, initialize, make_task

REPOSITORY = Path(__file__).parents[2]


root = pytest.fixture(scope="module")(tiny.root)


@contextlib.contextmanager
def _compilations_per_step():
  """Names of the programs that are compiled until each call of Trainer.update, by its step, and
  after the last one (None).  What is done between steps (metrics, pace, checkpoints) is in it.
  """
  compiled, names, update = {}, [], train_lib.Trainer.update

  def counted(self, packed, batch, kind):
    compiled[int(self.state(packed).step)] = names.copy()
    names.clear()
    return update(self, packed, batch, kind)

  def listen(event, seconds, fun_name="", **_):
    if event == "/jax/core/compile/backend_compile_duration":
      names.append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_lib.Trainer, "update", counted)
    yield compiled
  compiled[None] = names
  jax.monitoring.unregister_event_duration_listener(listen)


@dataclasses.dataclass
class Run:
  workdir: Path
  state: train_lib.TrainState
  metrics: list[dict]
  compilations: dict[int | None, list[str]]


@pytest.fixture(scope="module")
def uninterrupted(root) -> Run:
  workdir = root / "uninterrupted"
  with _compilations_per_step() as compilations:
    state = train_lib.train(tiny.get_config(str(root)), str(workdir))
  return Run(workdir, jax.device_get(state), read_metrics(workdir / METRICS_FILE), compilations)


def test_metrics_have_every_term_of_every_step_and_learn_something(uninterrupted):
  metrics = uninterrupted.metrics
  assert [m["step"] for m in metrics] == list(range(12))
  assert [m["kind"] for m in metrics] == ["box", "image"] * 6
  distillation = {"rkd_l1", "rkd_irm"}
  common = {"step", "kind", "loss", "update_norm"}
  assert set(metrics[0]) == common | distillation | {"rpn_cls", "rpn_box", "cls", "box"}
  assert set(metrics[1]) == common | distillation | {"pms"}
  for m in metrics:
    terms = [value for name, value in m.items() if name not in common]
    assert m["loss"] == pytest.approx(sum(terms), rel=1e-5)
  assert metrics[10]["loss"] < metrics[0]["loss"]
  assert metrics[11]["loss"] < metrics[1]["loss"]


def test_metrics_of_every_kind_are_among_those_written():
  config = tiny.get_config("unused")
  config.log_every, config.num_steps = 20, 50
  written = [step for step in range(50) if train_lib.is_logged(config, step)]
  assert written == [0, 1, 20, 21, 40, 41, 49]


def test_all_is_compiled_before_the_first_step(uninterrupted):
  first, *others = uninterrupted.compilations.values()
  assert first.count("jit(step)") == 2  # for the kinds
  assert others == [[]] * 12


def test_resuming_repeats_the_parameters_and_compiles_no_more_than_a_start(root, uninterrupted):
  workdir = root / "resumed"
  shutil.copytree(uninterrupted.workdir, workdir)
  shutil.rmtree(workdir / "checkpoints" / "12")
  with _compilations_per_step() as compilations:
    state = train_lib.train(tiny.get_config(str(root)), str(workdir))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), uninterrupted.state)
  assert list(compilations) == [8, 9, 10, 11, None]
  first, *others = compilations.values()
  assert first.count("jit(step)") == 2 and "jit(create_state)" not in first
  assert others == [[]] * 4


def _start(root, workdir) -> subprocess.Popen:
  command = [sys.executable, "-m", "rkd_jax.main"]
  command += [f"--config=tests/tiny.py:{root}", f"--workdir={workdir}"]
  return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)


def _wait_until(process, condition):
  limit = time.monotonic() + 120
  while not condition():
    assert process.poll() is None, "the run ended before it could be interrupted"
    assert time.monotonic() < limit
    time.sleep(0.02)


def _lines(workdir) -> int:
  file = workdir / METRICS_FILE
  return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.faults
def test_a_killed_run_goes_on_to_the_last_bit(root, uninterrupted):
  workdir = root / "killed"
  process = _start(root, workdir)
  _wait_until(process, lambda: latest_step(workdir) == 4 and _lines(workdir) > 5)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  assert 4 <= latest_step(workdir) < 12
  process = _start(root, workdir)
  assert process.wait() == 0
  assert read_metrics(workdir / METRICS_FILE) == uninterrupted.metrics


@pytest.mark.faults
def test_a_terminated_run_saves_its_step_and_goes_on_to_the_last_bit(root, uninterrupted):
  workdir = root / "terminated"
  process = _start(root, workdir)
  _wait_until(process, lambda: _lines(workdir) >= 1)
  process.send_signal(signal.SIGTERM)
  assert process.wait() == 143
  saved = latest_step(workdir)
  assert 1 <= saved < 12
  assert read_metrics(workdir / METRICS_FILE) == uninterrupted.metrics[:saved]
  state = train_lib.train(tiny.get_config(str(root)), str(workdir))
  assert read_metrics(workdir / METRICS_FILE) == uninterrupted.metrics
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), uninterrupted.state)


def test_the_number_of_devices_changes_nothing(root, uninterrupted):
  # SGD: AdamW divides by the size of the gradient, and where that is zero but for
  # rounding, rounding is all that its update consists of.
  config = tiny.get_config(str(root))
  task = make_task(config, str(root))
  trainer = train_lib.Trainer(config, task, jax.devices()[:1])
  state = trainer.create(config.seed)
  batches = train_batches(task.plan, 0, config.num_steps, threads=1)
  for expected, (_, kind, batch) in zip(uninterrupted.metrics, batches, strict=True):
    state, metrics = trainer.step(state, trainer.place(batch), kind)
    for name, value in metrics.read().items():
      assert float(value) == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, rtol=0, atol=1e-5),
    jax.device_get(state.params),
    uninterrupted.state.params,
  )


def test_another_config_cannot_take_over_a_run(root, uninterrupted):
  config = tiny.get_config(str(root))
  config.optimizer.momentum = 0.5
  with pytest.raises(
    CheckpointError, match=r"another config; it differs in optimizer\.momentum \("
  ):
    train_lib.train(config, str(uninterrupted.workdir))


def _use_loss(monkeypatch, loss):
  """Replaces the detector by one parameter, which starts at 1, and this loss of it."""

  def make(config, workdir):
    return dataclasses.replace(
      make_task(config, workdir),
      init=lambda key: ({"w": jnp.ones(())}, {}),
      loss=lambda params, model_state, constants, batch, key, kind: (
        loss(params["w"], batch),
        ({}, model_state),
      ),
    )

  monkeypatch.setattr(train_lib, "make_task", make)


def test_a_nan_stops_the_run_before_it_is_saved(root, tmp_path, monkeypatch):
  config = tiny.get_config(str(root))
  config.checkpoint.every, config.log_every = 1, 100
  plan = make_task(config, str(root)).plan
  records = plan.sampler.indices(2)
  bad = plan.sources["box"][int(records[3])].image_id
  assert bad not in [plan.sources["box"][int(i)].image_id for i in plan.sampler.indices(0)]
  _use_loss(
    monkeypatch, lambda w, batch: jnp.where(jnp.any(batch.image_ids == bad), jnp.nan, w * w)
  )
  with pytest.raises(train_lib.NonFiniteLossError) as error:
    train_lib.train(config, str(tmp_path))
  assert f"Step 2 (box batch, records {records.tolist()}): loss=nan" in str(error.value)
  assert "learning_rate" in str(error.value)
  assert latest_step(tmp_path) == 2  # after steps 0 and 1


def test_a_run_writes_its_pace_and_a_trace(root, tmp_path, monkeypatch):
  config = tiny.get_config(str(root))
  config.log_every, config.profile_steps = 4, (5, 7)
  _use_loss(monkeypatch, lambda w, batch: w * w)
  train_lib.train(config, str(tmp_path))
  file = tmp_path / METRICS_FILE
  lines = [m for m in read_metrics(file, pace=True) if m["kind"] == "pace"]
  assert [m["step"] for m in lines] == [4, 8]
  for line in lines:
    assert line["images_per_second"] > 0 and 0 <= line["data_wait"] <= 1
    assert "mfu" not in line  # of a CPU the peak is not known
  assert [m["step"] for m in read_metrics(file)] == [0, 1, 4, 5, 8, 9, 11]
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_batch_that_does_not_fit_is_refused_before_training_starts(root, tmp_path, monkeypatch):
  _use_loss(monkeypatch, lambda w, batch: w * w)
  monkeypatch.setattr(costs, "memory_limit", lambda: 10)
  sentence = (
    r"A step on 8 images \(data\.box\.batch_size\) needs 0\.\d+ GB of each device, which has "
    r"0\.00 GB: lower the batch size, set gradient_accumulation_steps .* or use more devices"
  )
  with pytest.raises(ValueError, match=sentence):
    train_lib.train(tiny.get_config(str(root)), str(tmp_path))
  assert latest_step(tmp_path) is None and not (tmp_path / METRICS_FILE).exists()


def test_a_step_that_the_compiler_refuses_for_its_size_is_said_alike():
  class Lowered:
    def __init__(self, text):
      self._text = text

    def compile(self):
      raise jax.errors.JaxRuntimeError(self._text)

  with pytest.raises(ValueError, match=r"needs 42\.26G of each device, which has 15\.75G: lower"):
    train_lib._compile(Lowered("RESOURCE_EXHAUSTED: Used 42.26G of 15.75G hbm."), "box", 8)
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    train_lib._compile(Lowered("INTERNAL: no"), "box", 8)


def _evaluator(do):
  """An evaluator for `train`, of a function of the step and whether to stop."""

  def make(config, workdir):
    def evaluate(step, params, stop):
      results = do(step, params, stop)
      if results is not None:
        evaluations.record(workdir, step, results)
      return results

    return evaluate

  return make


def test_a_run_is_evaluated_when_it_is_due_and_trains_as_without(root, tmp_path, monkeypatch):
  config = tiny.get_config(str(root))
  _use_loss(monkeypatch, lambda w, batch: w * w)
  expected = train_lib.train(config, str(tmp_path / "without"))
  config.checkpoint.every, config.checkpoint.keep = 100, 1
  config.evaluation.every, config.checkpoint.best = 5, "AP"

  def do(step, params, stop):
    assert not stop()
    return {"step": step, "AP": float(params["w"])}

  with _compilations_per_step() as compilations:
    state = train_lib.train(config, str(tmp_path / "with"), _evaluator(do))
  assert all(names == [] for step, names in compilations.items() if step != 0)
  assert float(state.params["w"]) == float(expected.params["w"])
  found = {step: own["AP"] for step, own in evaluations.read(tmp_path / "with").items()}
  assert list(found) == [5, 10, 12]
  assert found[5] > found[10] > found[12] == float(state.params["w"])
  assert steps_of(tmp_path / "with") == [5, 12]
  metrics = read_metrics(tmp_path / "with" / METRICS_FILE)
  assert [m["step"] for m in metrics if m["kind"] == "eval"] == [5, 10, 12]
  trained = [m for m in metrics if m["kind"] != "eval"]
  assert trained == read_metrics(tmp_path / "without" / METRICS_FILE)


def test_sigterm_during_an_evaluation_leaves_its_checkpoint(root, tmp_path, monkeypatch):
  config = tiny.get_config(str(root))
  config.checkpoint.every, config.evaluation.every = 100, 5
  _use_loss(monkeypatch, lambda w, batch: w * w)
  asked = []

  def do(step, params, stop):
    asked.append(step)
    if len(asked) == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return None if stop() else {"step": step, "AP": float(params["w"])}

  with pytest.raises(SystemExit) as ended:
    train_lib.train(config, str(tmp_path), _evaluator(do))
  assert ended.value.code == 143
  assert latest_step(tmp_path) == 5 and evaluations.read(tmp_path) == {}
  train_lib.train(config, str(tmp_path), _evaluator(do))
  assert asked == [5, 5, 10, 12] == [5, *evaluations.read(tmp_path)]


def test_an_infinite_update_is_not_saved_though_its_loss_is_finite(root, tmp_path, monkeypatch):
  config = tiny.get_config(str(root))
  config.checkpoint.every, config.optimizer.learning_rate = 1, float("inf")
  _use_loss(monkeypatch, lambda w, batch: w * w)
  with pytest.raises(train_lib.NonFiniteLossError, match=r"Step 0 \(box .*update_norm=inf"):
    train_lib.train(config, str(tmp_path))
  assert latest_step(tmp_path) is None


def test_training_starts_from_another_runs_parameters(root, uninterrupted):
  config = tiny.get_config(str(root))
  config.init.checkpoint = str(uninterrupted.workdir)
  config.init.allow_missing = ("params/classifier/transfer/.*",)
  config.model.classifier.weight_transfer = (4, 8)
  config.frozen = ("classifier/projection/.*",)
  trainer = train_lib.Trainer(config, make_task(config, str(root)))
  state = initialize(config, trainer.create(config.seed))
  fresh = jax.device_get(trainer.create(config.seed).params)
  params = jax.device_get(state.params)
  assert int(state.step) == 0
  transfer = params["classifier"].pop("transfer")
  jax.tree.map(np.testing.assert_array_equal, transfer, fresh["classifier"]["transfer"])
  jax.tree.map(np.testing.assert_array_equal, params, uninterrupted.state.params)
  config.init.allow_missing = ()
  with pytest.raises(CheckpointError, match=r"missing params/classifier/transfer/fc1/bias"):
    initialize(config, trainer.create(config.seed))


@pytest.mark.parametrize("devices", [1, 8])
def test_the_step_is_compiled_for_the_devices_of_its_mesh(devices):
  config = tiny.get_config("unused")

  def loss(params, model_state, constants, batch, key, kind):
    target = current()
    assert target.platform == "cpu"
    return params["w"].sum(), ({"devices": jnp.float32(target.count)}, model_state)

  task = Task(lambda key: ({"w": jnp.zeros(2)}, {}), loss, {}, plan=None)
  trainer = train_lib.Trainer(config, task, jax.devices()[:devices])
  batch = trainer.place(np.zeros((8, 1), np.float32))
  _, metrics = trainer.step(trainer.create(0), batch, "box")
  assert metrics.read()["devices"] == devices
