"""A run goes on where its data moved, and not where they changed."""

import json
import shutil

import numpy as np
import pytest
import tiny

from rkd_jax.runs.checkpoint import CheckpointError
from rkd_jax.runs.config import IDENTITY_FILE, check_config, write_config
from rkd_jax.train import train as train_lib
from rkd_jax.train.identity import identities
from rkd_jax.train.tasks import make_task

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
  """A folder with data, its copy, and the run of the former."""
  first, moved = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("moved")
  tiny.build_data(first)
  shutil.copytree(first, moved, dirs_exist_ok=True)
  with tiny.compiled_once(first):
    config = _config(first)
    config.num_steps = 2
    train_lib.train(config, str(first / "run"))
    yield first, moved


def _config(root):
  config = tiny.get_config(str(root))
  config.compilation_cache = ""
  return config


@pytest.fixture
def run(roots, tmp_path):
  return shutil.copytree(roots[0] / "run", tmp_path / "run")


def test_data_teachers_and_class_embeddings_may_move(roots, run, caplog):
  config = _config(roots[1])
  assert config.data.dir != _config(roots[0]).data.dir
  config.num_steps = 3
  state = train_lib.train(config, str(run))
  assert int(state.step) == 3
  for key in ("data.dir", "data.teachers", "class_embeddings"):
    assert any(f"{key} was" in r and r.endswith("with the same content.") for r in caplog.messages)
  assert json.loads((run / "config.json").read_text())["data"]["dir"] == str(roots[1] / "data")


def test_other_class_embeddings_are_refused_wherever_they_lie(roots, run, tmp_path):
  root = shutil.copytree(roots[1], tmp_path / "other")
  config = _config(root)
  with np.load(config.class_embeddings) as arrays:
    changed = {k: v + 1 if v.dtype == np.float32 else v for k, v in arrays.items()}
  np.savez(config.class_embeddings, **changed)
  with pytest.raises(CheckpointError, match=r"other data: class_embeddings changed \(.* was "):
    train_lib.train(config, str(run))
  # Also at the same place.
  stored = json.loads((run / IDENTITY_FILE).read_text()) | {"class_embeddings": "x"}
  (run / IDENTITY_FILE).write_text(json.dumps(stored))
  with pytest.raises(CheckpointError, match=r"class_embeddings changed \(at the same place\)"):
    train_lib.train(_config(roots[0]), str(run))


def test_other_records_or_results_are_refused(roots, run):
  config = _config(roots[1])
  found = identities(config, make_task(config, str(run)).plan)
  assert found.keys() == {"records.box", "records.image", "class_embeddings"}
  with pytest.raises(CheckpointError, match=r"other data: records\.box changed"):
    write_config(run, config, found | {"records.box": "others"})
  assert json.loads((run / "config.json").read_text())["data"]["dir"] == str(roots[0] / "data")


def test_of_a_run_of_an_earlier_version_nothing_is_known(roots, run):
  (run / IDENTITY_FILE).unlink()
  moved = _config(roots[0])
  moved.data.dir = str(roots[1] / "data")
  moved.num_steps = 2
  with pytest.raises(CheckpointError, match=r"differs in data\.dir \('.*', now '"):
    train_lib.train(moved, str(run))
  config = _config(roots[0])
  write_config(run, config, identities(config, make_task(config, str(run)).plan))
  assert (run / IDENTITY_FILE).exists()


def test_what_a_run_started_from_is_known_by_its_digests(roots, run, tmp_path):
  config = _config(roots[0])
  plan = make_task(config, str(run)).plan
  config.init.checkpoint = str(run)
  one = identities(config, plan)["init.checkpoint"]
  config.init.checkpoint = str(shutil.copytree(run, tmp_path / "copy"))
  assert identities(config, plan)["init.checkpoint"] == one
  config.init.checkpoint = str(tmp_path / "nowhere")
  assert identities(config, plan)["init.checkpoint"] is None


def test_a_run_may_be_longer_than_was_said(roots, run):
  config = _config(roots[0])
  config.num_steps = 20
  (note,) = check_config(run, config)
  assert note.startswith(f"{run}: num_steps is 20, and was 2: the cosine ends later")
  config.num_steps = 1
  with pytest.raises(CheckpointError, match=r"differs in num_steps \(2, now 1\)"):
    check_config(run, config)
  config.num_steps, config.optimizer.schedule = 20, "steps"
  stored = json.loads((run / "config.json").read_text())
  stored["optimizer"]["schedule"] = "steps"
  (run / "config.json").write_text(json.dumps(stored))
  (note,) = check_config(run, config)
  assert "the learning rate of the steps that both have stays" in note


def test_a_damaged_config_is_named(run):
  (run / "config.json").write_text("{")
  with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
    check_config(run, _config(run))
