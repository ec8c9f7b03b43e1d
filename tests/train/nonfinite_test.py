"""Steps that are not finite: kept, run again, or passed over."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from absl import flags

from rkd_jax import main
from rkd_jax.runs.checkpoint import CheckpointError, latest_step
from rkd_jax.runs.config import restore_config
from rkd_jax.runs.metrics import METRICS_FILE, read_metrics
from rkd_jax.runs.restore import restore_state
from rkd_jax.train import replay as replay_lib
from rkd_jax.train import train as train_lib
from rkd_jax.train.nonfinite import NonFiniteLossError, allowed_in_a_row
from rkd_jax.train.replay import replay
from rkd_jax.train.tasks import make_task

pytestmark = pytest.mark.faults


root = pytest.fixture(scope="module")(tiny.root)


def _batches(config, root, *steps):
  """Image ids of the batches of these steps, [n, b]."""
  plan = make_task(config, str(root)).plan
  sources = plan.sources[plan.sampler.kind(steps[0])]
  return jnp.array([[sources[int(i)].image_id for i in plan.sampler.indices(s)] for s in steps])


def _use_loss(monkeypatch, bad):
  """A loss of one layer's two parameters, whose second term is NaN for the bad batches."""

  def loss(params, model_state, constants, batch, keys, kind):
    hit = (batch.image_ids == bad).all(axis=1).any()
    terms = {"smooth": (params["a"]["w"] ** 2).sum(), "rough": params["b"]["w"].sum()}
    terms["rough"] *= jnp.where(hit, jnp.nan, constants["one"])
    return sum(terms.values()), (terms, model_state)

  def make(config, workdir):
    task = make_task(config, workdir)
    init = {"a": {"w": jnp.ones(3)}, "b": {"w": jnp.full(2, 2.0)}}
    ones = {"one": np.float32(1)}
    return dataclasses.replace(task, init=lambda key: (init, {}), loss=loss, constants=ones)

  monkeypatch.setattr(train_lib, "make_task", make)
  monkeypatch.setattr(replay_lib, "make_task", make)


def test_what_may_be_passed_over_is_said_in_the_config():
  assert allowed_in_a_row("stop") == 0 and allowed_in_a_row("skip(3)") == 3
  for other in ("skip", "skip(0)", "skip(-1)", "ignore", ""):
    with pytest.raises(ValueError, match=r"expected 'stop', or, .* 'skip\(N\)'"):
      allowed_in_a_row(other)


@pytest.fixture
def stopped(root, tmp_path, monkeypatch):
  """The workdir of a run whose step 4 was not finite, and the error."""
  config = tiny.get_config(str(root))
  config.num_steps, config.checkpoint.every = 8, 1
  _use_loss(monkeypatch, _batches(config, root, 4))
  with pytest.raises(NonFiniteLossError) as error:
    train_lib.train(config, str(tmp_path))
  return tmp_path, error.value


def test_the_state_before_a_bad_step_is_kept_and_the_step_repeats(root, stopped):
  workdir, error = stopped
  dump = workdir / "nonfinite" / "4"
  assert "Step 4 (box batch" in str(error) and f"--replay={dump}` runs the step again" in str(error)
  said = json.loads((dump / "step.json").read_text())
  assert said["metrics"]["rough"] == "nan" and said["kind"] == "box"

  assert latest_step(workdir) == 4
  abstract = _abstract(tiny.get_config(str(root)), root)
  states = (jax.device_get(restore_state(path, abstract)) for path in (dump, workdir))
  jax.tree.map(np.testing.assert_array_equal, *states)

  lines = list(replay(dump, restore_config(dump)))
  assert lines[0] == f"step 4, box batch, records {said['records']}"
  assert lines[1] == "the batch is the one of the run"
  rows = {line.split()[0]: line.split()[1:] for line in lines[3:] if line}
  assert rows["a"][1:] != [] and float(rows["a"][1]) > 0 and len(rows["a"]) == 2
  assert rows["b"][1:] == ["nan", "2"]  # both of its parameters
  assert rows["rough"] == ["nan", "nan", "nan"]
  assert rows["smooth"][0] == rows["smooth"][1] == said["metrics"]["smooth"]
  assert float(rows["smooth"][2]) > 0


def test_a_batch_that_is_another_now_is_told(stopped):
  workdir, _ = stopped
  file = workdir / "nonfinite" / "4" / "step.json"
  said = json.loads(file.read_text())
  said["batch"]["images"] = "uint8[8,64,64,3] 0"
  file.write_text(json.dumps(said))
  dump = file.parent
  assert "the batch is NOT the one of the run: other images" in list(
    replay(dump, restore_config(dump))
  )


def test_a_checkpoint_serves_too_and_the_command_prints(stopped, capsys):
  workdir, _ = stopped
  given = flags.FlagValues()
  for name, value in (("replay", str(workdir / "checkpoints" / "4")), ("config", None)):
    flags.DEFINE_string(name, value, "", flag_values=given)
  given.mark_as_parsed()
  main.main(given)
  assert capsys.readouterr().out.startswith("step 4, box batch")
  with pytest.raises(CheckpointError, match="has no state to run a step on"):
    list(replay(workdir / "checkpoints" / "2", restore_config(workdir)))


def test_bad_steps_are_passed_over_and_leave_no_trace(root, tmp_path, monkeypatch, caplog):
  config = tiny.get_config(str(root))
  config.on_nonfinite, config.num_steps, config.data.schedule = "skip(1)", 6, ("box",)
  config.data.box.batch_size = 8
  _use_loss(monkeypatch, _batches(config, root, 1, 3))
  assert [i for i, m in enumerate(_train(config, tmp_path / "a")) if m["loss"] is None] == [1, 3]
  assert "Step 1 (box batch" in caplog.text and "passed over" in caplog.text
  # What the good steps gave is what a run without the bad ones gives: the loss is of parameters
  # alone.
  _use_loss(monkeypatch, jnp.zeros((1, 8), int))
  good = [m["loss"] for m in read_metrics(tmp_path / "a" / METRICS_FILE) if m["loss"] is not None]
  assert [m["loss"] for m in _train(config, tmp_path / "b")][: len(good)] == good


def _train(config, workdir):
  train_lib.train(config, str(workdir))
  return read_metrics(workdir / METRICS_FILE)


def test_too_many_bad_steps_in_a_row_stop_with_the_state_before_them(root, tmp_path, monkeypatch):
  config = tiny.get_config(str(root))
  config.on_nonfinite, config.num_steps, config.data.schedule = "skip(2)", 6, ("box",)
  config.checkpoint.every = 1
  _use_loss(monkeypatch, _batches(config, root, *range(6)))
  with pytest.raises(NonFiniteLossError, match=r"Step 2 "):
    train_lib.train(config, str(tmp_path))
  assert latest_step(tmp_path) == 2  # two steps, which changed nothing
  params = restore_state(tmp_path / "nonfinite" / "2", _abstract(config, root)).params
  np.testing.assert_array_equal(params["a"]["w"], np.ones(3))


def _abstract(config, root):
  return train_lib.Trainer(config, train_lib.make_task(config, str(root))).abstract_state
