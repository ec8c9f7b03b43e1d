"""The config in a run's folder: what may change when the run goes on, and what may not."""

import json

import jax.numpy as jnp
import ml_collections
import pytest

from rkd_jax.configs import common, demo
from rkd_jax.runs import config as config_lib
from rkd_jax.runs.checkpoint import Checkpointer, CheckpointError
from rkd_jax.runs.config import check_config, check_model, restore_config, write_config
from rkd_jax.runs.state import TrainState


@pytest.fixture
def started(tmp_path):
  """A workdir with a config and a checkpoint, and the config."""
  config = demo.get_config("rkd_ils")
  write_config(tmp_path, config)
  state = TrainState(jnp.int32(1), {"kernel": jnp.ones(2)}, {}, ())
  checkpointer = Checkpointer(str(tmp_path))
  checkpointer.save(state)
  checkpointer.close()
  return tmp_path, config


def test_resuming_with_another_config_names_the_keys(started):
  workdir, config = started
  config.optimizer.learning_rate *= 2
  config.data.box.batch_size = 4
  config.model.roi.resolution = 5
  message = (
    r"differs in data\.box\.batch_size \(8, now 4\), model\.roi\.resolution \(4, now 5\), "
    r"optimizer\.learning_rate \(0\.0015, now 0\.003\)\."
  )
  with pytest.raises(CheckpointError, match=message):
    write_config(workdir, config)
  assert json.loads((workdir / "config.json").read_text())["data"]["box"]["batch_size"] == 8


def test_settings_that_do_not_change_the_steps_are_free(started):
  workdir, config = started
  config.log_every = 1
  config.checkpoint.every = 7
  config.data.threads = 3
  config.model.test.score_threshold = 0.2
  write_config(workdir, config)
  stored = json.loads((workdir / "config.json").read_text())
  assert stored == json.loads(json.dumps(config.to_dict()))


def test_a_run_that_saved_nothing_may_begin_anew(tmp_path):
  config = demo.get_config("base")
  write_config(tmp_path, config)
  config.optimizer.learning_rate *= 2
  write_config(tmp_path, config)
  stored = json.loads((tmp_path / "config.json").read_text())
  assert stored["optimizer"]["learning_rate"] == config.optimizer.learning_rate


def test_a_network_with_other_settings_of_the_same_shape_is_refused(tmp_path):
  config = common.detector()
  write_config(str(tmp_path), config)
  config.model.test.score_threshold = 0.3
  check_model(str(tmp_path), config)
  config.model.classifier.temperature = 20.0
  with pytest.raises(CheckpointError, match=r"differs in model\.classifier\.temperature"):
    check_model(str(tmp_path / "checkpoints" / "7"), config)


@pytest.mark.parametrize("key", ["gradient_accumulation_steps", "profile_steps", "model.precision"])
def test_a_run_of_before_a_setting_was_there_goes_on(started, key):
  workdir, config = started
  old = json.loads((workdir / "config.json").read_text())
  *above, name = key.split(".")
  del (old[above[0]] if above else old)[name]
  del old["model"]["remat"]
  (workdir / "config.json").write_text(json.dumps(old))
  config.model.remat, config.gradient_accumulation_steps = True, 2
  check_model(str(workdir), config)
  write_config(workdir, config)
  (workdir / "config.json").write_text(json.dumps(old))
  config.model.precision = "highest"
  with pytest.raises(CheckpointError, match=r"differs in model\.precision"):
    write_config(workdir, config)
  with pytest.raises(CheckpointError, match=r"differs in model\.precision"):
    check_model(str(workdir), config)


def test_a_run_of_before_pseudo_labels_of_box_batches_goes_on(started):
  workdir, config = started
  old = json.loads((workdir / "config.json").read_text())
  del old["data"]["box"]["pseudo_labels"], old["data"]["box"]["pseudo_label_score"]
  del old["loss"]["pseudo_background"]
  (workdir / "config.json").write_text(json.dumps(old))
  check_config(workdir, config)
  config.data.box.pseudo_labels = 2
  with pytest.raises(CheckpointError, match=r"differs in data\.box\.pseudo_labels \(None, now 2\)"):
    check_config(workdir, config)


def test_a_run_of_when_arrays_could_be_split_goes_on(started):
  workdir, config = started
  old = json.loads((workdir / "config.json").read_text()) | {"mesh": {"data": -1, "model": 2}}
  (workdir / "config.json").write_text(json.dumps(old))
  assert restore_config(workdir).mesh.model == 2
  write_config(workdir, config)
  assert "mesh" not in json.loads((workdir / "config.json").read_text())


def test_a_run_of_before_results_were_joined_goes_on(started):
  workdir, config = started
  old = json.loads((workdir / "config.json").read_text())
  for part in (old["data"], old["data"]["box"], old["data"]["image"]):
    for key in ("teachers", "skip_missing_results"):
      part.pop(key, None)
  old["data"]["name"] = "shapes_ovd/rkd"
  (workdir / "config.json").write_text(json.dumps(old))
  write_config(workdir, config)
  assert json.loads((workdir / "config.json").read_text())["data"]["name"] == "shapes_ovd/scenes"
  old["data"]["name"] = "coco_ovd/rkd"
  (workdir / "config.json").write_text(json.dumps(old))
  with pytest.raises(CheckpointError, match=r"differs in data\.name \("):
    write_config(workdir, config)


def test_a_setting_of_ones_own_may_say_what_older_runs_did(started, monkeypatch):
  workdir, config = started
  with config.unlocked():
    config.loss.cosine = ml_collections.ConfigDict(dict(weight=0.0))
  with pytest.raises(CheckpointError, match=r"differs in loss\.cosine\.weight \(None, now 0\.0\)"):
    write_config(workdir, config)
  monkeypatch.setitem(config_lib.DEFAULTS, "loss.cosine.weight", 0.0)
  check_config(workdir, config)
  config.loss.cosine.weight = 1.0
  with pytest.raises(CheckpointError, match=r"differs in loss\.cosine\.weight \(None, now 1\.0\)"):
    check_config(workdir, config)


@pytest.mark.parametrize("key", config_lib.DEFAULTS)
def test_what_older_runs_did_is_the_default(key):
  assert config_lib.at(common.detector().to_dict(), key) == config_lib.DEFAULTS[key]


def test_a_run_of_before_the_contrast_goes_on_without_it(started):
  workdir, config = started
  old = json.loads((workdir / "config.json").read_text())
  del old["loss"]["contrastive"], old["loss"]["relations"], old["loss"]["rpn"]["teacher_boxes"]
  (workdir / "config.json").write_text(json.dumps(old))
  check_config(workdir, config)
  config.loss.contrastive.weight, config.loss.rpn.teacher_boxes.below = 0.1, 0.5
  message = (
    r"differs in loss\.contrastive\.weight \(None, now 0\.1\), "
    r"loss\.rpn\.teacher_boxes\.below \(None, now 0\.5\)\."
  )
  with pytest.raises(CheckpointError, match=message):
    check_config(workdir, config)


def test_settings_that_results_depend_on_are_named_with_both_values():
  old, new = (demo.get_config("rkd_ils,root=r") for _ in range(2))
  new.data.threads, new.model.test.fusion.novel, new.evaluation.every = 9, 0.7, 5
  assert config_lib.evaluated_otherwise(old.to_dict(), new.to_dict()) == {}
  new.data.eval.split, new.model.test.fusion.kind = "tune", "crops"
  new.data.name = "shapes_ovd/elsewhere"
  assert config_lib.evaluated_otherwise(old.to_dict(), new.to_dict()) == {
    "data.name": ("shapes_ovd/scenes", "shapes_ovd/elsewhere"),
    "data.eval.split": ("validation", "tune"),
    "model.test.fusion.kind": ("", "crops"),
    "model.test.fusion.novel": (0.2, 0.7),
  }
  earlier = old.to_dict()
  del earlier["model"]["test"]["fusion"], earlier["evaluation"]
  # Of the time when records had the teachers' results in them.
  earlier["data"]["name"] = "shapes_ovd/rkd"
  for part in (earlier["data"], earlier["data"]["box"], earlier["data"]["image"]):
    part.pop("teachers")
  assert config_lib.evaluated_otherwise(earlier, old.to_dict()) == {}
