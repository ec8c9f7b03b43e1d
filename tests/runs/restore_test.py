"""Reading checkpoints that are whole, damaged, old or of a later version."""

import functools
import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from made_states import make_state as _state
from made_states import variables_of as _variables

from rkd_jax.runs import checkpoint
from rkd_jax.runs.checkpoint import Checkpointer, CheckpointError, latest_step
from rkd_jax.runs.restore import (
  DamagedCheckpointError,
  recorded_digests,
  restore_state,
  restore_step,
  restore_variables,
  set_aside,
)

GOLDEN = Path(__file__).parents[1] / "golden"


def _equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A run's folder with the checkpoints of steps 2 and 3."""
  workdir = tmp_path_factory.mktemp("run")
  with Checkpointer(str(workdir)) as checkpointer:
    checkpointer.save(_state(2))
    checkpointer.save(_state(3))
  return workdir


@pytest.fixture
def run(saved, tmp_path):
  """A copy of it, to be damaged."""
  shutil.copytree(saved, tmp_path / "run")
  return tmp_path / "run"


def _damage(run, step, item="variables"):
  """Changes one byte in the middle of the largest file of a step's item."""
  files = (run / "checkpoints" / str(step) / item).rglob("*")
  file = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def test_the_step_before_is_taken_where_the_newest_is_damaged(run, caplog):
  _damage(run, 3)
  _equal(restore_state(run, _state(0)), _state(2))
  message = caplog.records[-1].getMessage()
  assert f"Checkpoint {run}/checkpoints/3 is damaged" in message
  assert message.endswith("Step 2 is taken instead.")
  step, variables = restore_step(run, _variables(_state(0)))
  assert step == 2
  _equal(variables, _variables(_state(2)))


def test_a_step_that_was_asked_for_is_not_replaced(run):
  _damage(run, 3)
  with pytest.raises(DamagedCheckpointError, match=r"checkpoints/3 is damaged"):
    restore_variables(run / "checkpoints" / "3", _variables(_state(0)))
  _equal(restore_state(run / "checkpoints" / "2", _state(0)), _state(2))


def test_with_none_left_it_is_a_sentence(run):
  _damage(run, 3)
  _damage(run, 2)
  for read in (
    lambda: restore_state(run, _state(0)),
    lambda: restore_variables(run, _variables(_state(0))),
  ):
    with pytest.raises(DamagedCheckpointError, match=r"checkpoints/2 is damaged.*No other"):
      read()


def test_a_damaged_optimizer_concerns_training_alone(run):
  _damage(run, 3, "optimizer")
  _equal(restore_state(run, _state(0)), _state(2))
  _equal(restore_variables(run, _variables(_state(0))), _variables(_state(3)))


def test_other_numbers_than_were_saved_are_named_by_their_array(run, monkeypatch):
  file = run / "checkpoints" / "3" / "record" / "metadata"
  record = json.loads(file.read_text())
  arrays = record["arrays"] | {"params/head/bias": "float32[4] 0123456789abcdef"}
  file.write_text(json.dumps(checkpoint.checked_record(arrays)))
  expected = _variables(_state(0))
  with pytest.raises(DamagedCheckpointError, match=r"other numbers .* in params/head/bias\."):
    restore_variables(run / "checkpoints" / "3", expected)
  _equal(restore_variables(run, expected, verify=False), _variables(_state(3)))


def test_a_record_that_was_changed_is_no_record(run):
  file = run / "checkpoints" / "3" / "record" / "metadata"
  file.write_text(file.read_text().replace("float32[3,4]", "float32[3,5]"))
  with pytest.raises(DamagedCheckpointError, match="record/metadata is not what was saved"):
    restore_variables(run / "checkpoints" / "3", _variables(_state(0)))
  with pytest.raises(CheckpointError, match="damaged record"):
    recorded_digests(run)


def test_what_is_set_aside_can_be_saved_again(run):
  _damage(run, 3)
  set_aside(run, 2)
  assert latest_step(run) == 2 and (run / "damaged" / "3" / "variables").exists()
  with Checkpointer(str(run)) as checkpointer:
    checkpointer.save(_state(3))
  _equal(restore_state(run, _state(0)), _state(3))


def test_a_later_format_is_not_taken_for_damage(run, monkeypatch):
  monkeypatch.setattr(checkpoint, "FORMAT", 3)
  with Checkpointer(str(run)) as checkpointer:
    checkpointer.save(_state(4))
  with pytest.raises(CheckpointError, match="has format 3, which a later version") as error:
    restore_state(run, _state(0))
  assert not isinstance(error.value, DamagedCheckpointError)


def test_checkpoints_of_format_1_are_read(tmp_path):
  # As an earlier version wrote it, without a record.
  with zipfile.ZipFile(GOLDEN / "run_format1.zip") as archive:
    archive.extractall(tmp_path)
  _equal(restore_state(tmp_path, _state(0)), _state(3))
  _equal(restore_variables(tmp_path, _variables(_state(0))), _variables(_state(3)))
  assert recorded_digests(tmp_path) is None
  with pytest.raises(CheckpointError, match=r"is float32\[3,4\], expected float32\[3,5\]"):
    restore_variables(tmp_path, _variables(_state(0, width=5)))


def _outcome(run, change) -> str:
  """What reading a run gives after a change of its step 3."""
  change(run / "checkpoints" / "3")
  restored = restore_state(run, _state(0))
  step = int(restored.step)
  assert step in (2, 3)
  _equal(restored, _state(step))
  return f"step {step}"


def _files(run):
  folder = run / "checkpoints" / "3"
  return sorted(f.relative_to(folder) for f in folder.rglob("*") if f.is_file())


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["emptied", "halved", "deleted"])
def test_every_file_may_be_lost(saved, tmp_path, fault):
  change = {
    "emptied": lambda name, step: (step / name).write_bytes(b""),
    "halved": lambda name, step: os.truncate(step / name, (step / name).stat().st_size // 2),
    "deleted": lambda name, step: (step / name).unlink(),
  }[fault]
  outcomes = set()
  for number, name in enumerate(_files(saved)):
    run = shutil.copytree(saved, tmp_path / str(number))
    outcomes.add(_outcome(run, functools.partial(change, name)))
  assert outcomes == {"step 2", "step 3"}  # some files are not needed for reading


@pytest.mark.faults
@pytest.mark.parametrize("part", range(4))
def test_no_flipped_bit_changes_a_number(saved, tmp_path, part):
  rng, outcomes = random.Random(part), []
  for number in range(50):
    run = shutil.copytree(saved, tmp_path / str(number))

    def flip(step):
      file = step / rng.choice(_files(saved))
      content = bytearray(file.read_bytes())
      if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)

    outcomes.append(_outcome(run, flip))
    shutil.rmtree(run)
  assert outcomes.count("step 2") > 5
