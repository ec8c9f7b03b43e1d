import shutil

import jax
import numpy as np
import processes
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from made_states import make_state as _state
from made_states import variables_of as _variables

from rkd_jax.runs.checkpoint import Checkpointer, CheckpointError, latest_step
from rkd_jax.runs.restore import restore_state, restore_variables
from rkd_jax.train.sharding import make_mesh, placed, replicated


def _abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _save(workdir, *states, keep=2):
  checkpointer = Checkpointer(str(workdir), keep)
  for state in states:
    checkpointer.save(state)
  checkpointer.close()


def _equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run's folder with the checkpoints of steps 2 and 3."""
  workdir = tmp_path_factory.mktemp("run")
  _save(workdir, _state(1), _state(2), _state(3))
  return workdir


def test_keeps_the_last_n(run):
  assert sorted(f.name for f in (run / "checkpoints").iterdir() if f.name.isdigit()) == ["2", "3"]
  assert latest_step(run) == 3


def test_a_state_comes_back_whole(run):
  _equal(restore_state(run, _state(0)), _state(3))


def test_reading_says_and_changes_nothing(run, caplog):
  before = {f: f.stat().st_mtime_ns for f in run.rglob("*")}
  restore_variables(run, _variables(_state(0)))
  assert {f: f.stat().st_mtime_ns for f in run.rglob("*")} == before
  assert not caplog.records


_ONE_OF_TWO = """
import sys
import jax
from rkd_jax.runs.restore import restore_variables

coordinator, index, count = (argument.partition("=")[2] for argument in sys.argv[2:])
jax.distributed.initialize(coordinator, int(count), int(index))
if jax.process_index() == 1:
  shapes = {"params": {"head": {"kernel": (3, 4), "bias": (4,)}}}
  shapes["model_state"] = {"batch_stats": {"mean": (2,)}}
  expected = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, "float32"), shapes, is_leaf=lambda x: type(x) is tuple
  )
  print(restore_variables(sys.argv[1], expected)["params"]["head"]["kernel"].tolist())
"""


@pytest.mark.hosts
def test_one_process_of_several_reads_without_the_others(run, tmp_path):
  first, second = processes.run(tmp_path / "logs", "-c", _ONE_OF_TWO, str(run))
  assert first.returncode == second.returncode == 0, second.stderr
  assert second.stdout.endswith(f"{[[3.0] * 4] * 3}\n")


def test_variables_come_back_without_the_optimizer(run, tmp_path):
  shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
  for step in (2, 3):
    shutil.rmtree(tmp_path / "checkpoints" / str(step) / "optimizer")
  expected = _abstract(_variables(_state(0)))
  _equal(restore_variables(tmp_path, expected), _variables(_state(3)))
  _equal(restore_variables(tmp_path / "checkpoints" / "2", expected), _variables(_state(2)))


def test_a_model_without_running_statistics_keeps_an_empty_model_state(tmp_path):
  state = _state(1).replace(model_state={})
  _save(tmp_path, state)
  _equal(restore_variables(tmp_path, _variables(state)), _variables(state))


def test_other_devices_may_read_what_these_wrote(tmp_path):
  params = {"box_head": {"fc1": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}}}
  state = _state(1).replace(params=params, model_state={}, opt_state=())
  # Earlier versions could split this matrix.
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
  wide = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
  columns = NamedSharding(mesh, PartitionSpec(None, "model"))
  wide.params["box_head"]["fc1"]["kernel"] = jax.device_put(
    params["box_head"]["fc1"]["kernel"], columns
  )
  _save(tmp_path, wide)
  # As on a machine that lacks most of the devices of the stored sharding.
  abstract = placed(state, replicated(make_mesh(jax.devices()[:1])))
  restored = restore_state(tmp_path, abstract)
  _equal(restored, state)
  loaded = restore_variables(tmp_path, _abstract(_variables(state)))
  _equal(loaded, _variables(state))
  for tree in (restored, loaded):
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(tree)} == {1}


def test_a_killed_save_is_not_a_checkpoint(run, tmp_path):
  assert latest_step(tmp_path) is None
  shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
  partial = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
  shutil.copytree(run / "checkpoints" / "3", partial)
  assert latest_step(tmp_path) == 3
  restored = restore_variables(tmp_path, _variables(_state(0)))
  _equal(restored, _variables(_state(3)))
  assert partial.exists()  # whoever only reads removes nothing
  _save(tmp_path, _state(4))
  assert not partial.exists()
  assert latest_step(tmp_path) == 4


def test_no_checkpoint_is_a_clear_error(run, tmp_path):
  expected = _variables(_state(0))
  with pytest.raises(CheckpointError, match=r"No checkpoint at .*nowhere.*--workdir"):
    restore_variables(tmp_path / "nowhere", expected)
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(CheckpointError, match="No complete checkpoint at"):
    restore_variables(tmp_path, expected)
  with pytest.raises(CheckpointError, match=r"no step 7; expected one of \[2, 3\]"):
    restore_variables(run / "checkpoints" / "7", expected)


def test_other_shapes_name_the_parameter(run):
  wrong = _state(0, width=5)
  message = r"checkpoints/3 .*params/head/kernel is float32\[3,4\], expected float32\[3,5\]"
  with pytest.raises(CheckpointError, match=message):
    restore_variables(run, _variables(wrong))
  with pytest.raises(CheckpointError, match=message):
    restore_state(run, wrong)


def test_other_parameters_are_named(run):
  with pytest.raises(CheckpointError, match=r"missing params/transfer/kernel"):
    restore_variables(run, _variables(_state(0, extra=("transfer",))))
  fewer = _variables(_state(0))
  del fewer["params"]["head"]["bias"]
  with pytest.raises(CheckpointError, match=r"not in this config params/head/bias"):
    restore_variables(run, fewer)


def test_parameters_that_may_be_missing_stay_fresh(run):
  expected = _variables(_state(0, extra=("transfer",)))
  loaded = restore_variables(run, expected, ("params/transfer/.*",))
  _equal(loaded["params"]["transfer"], expected["params"]["transfer"])
  _equal(loaded["params"]["head"], _state(3).params["head"])


def test_a_folder_that_could_not_be_read_again_is_refused(tmp_path):
  with pytest.raises(
    CheckpointError, match=r"try \[1\]: .*\[ \] in its path; give it another name"
  ):
    Checkpointer(str(tmp_path / "try [1]"))
  for name in ("a [ b", "a ] b", "é *?#%{a}"):
    _save(tmp_path / name, _state(1))
    _equal(restore_state(tmp_path / name, _state(0)), _state(1))


def test_a_save_that_cannot_be_found_again_is_a_failed_one(tmp_path, caplog):
  checkpointer = Checkpointer(str(tmp_path))
  finish = checkpointer._finish

  def lose_and_finish():
    if checkpointer._manager is not None:
      checkpointer._manager.wait_until_finished()
      shutil.rmtree(tmp_path / "checkpoints" / "1" / "variables")
    finish()

  checkpointer._finish = lose_and_finish
  checkpointer.save(_state(1))
  checkpointer._finish = finish
  assert caplog.messages[-1].startswith("Step 1 could not be saved")
  with pytest.raises(CheckpointError, match=r"Step 1 could not be saved in .*checkpoints"):
    checkpointer.close()


def test_a_later_save_makes_up_for_one_that_failed(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
  checkpointer = Checkpointer(str(tmp_path))
  checkpointer.save(_state(1))
  assert "140 bytes are to be written, and 10 are free" in caplog.messages[-1]
  assert "no checkpoint is there" in caplog.messages[-1] and latest_step(tmp_path) is None
  monkeypatch.undo()
  checkpointer.save(_state(2))
  checkpointer.close()
  assert latest_step(tmp_path) == 2
