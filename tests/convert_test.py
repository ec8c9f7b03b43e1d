"""Whole runs: files and folders, through the command line as a user meets it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rkd_jax.configs import demo
from rkd_jax.convert import to_detectron2, to_rkd_jax
from rkd_jax.files.torch_writer import write_pth
from rkd_jax.files.untrusted.torch_reader import read_checkpoint
from rkd_jax.frozen.detector import Detector
from rkd_jax.models.detector.rcnn import abstract_params
from rkd_jax.runs.checkpoint import CheckpointError
from rkd_jax.runs.state import TrainState
from rkd_jax.train.tasks import initialize
from rkd_jax.train.train import train
from rkd_jax.weights.detectron2 import from_params
from rkd_jax.weights.rename import WeightsError

REPOSITORY = Path(__file__).parents[1]


def _convert(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "rkd_jax.convert", *arguments],
    cwd=REPOSITORY,
    env=os.environ,
    capture_output=True,
    text=True,
    check=False,
  )


def _config():
  config = tiny.get_config("unused")
  config.model.backbone.norm = "frozen"
  return config


@pytest.fixture(scope="module")
def config():
  return _config()


@pytest.fixture(scope="module")
def params(config):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.random(x.shape, np.float32), abstract_params(config))


@pytest.fixture(scope="module")
def file(params, tmp_path_factory):
  file = tmp_path_factory.mktemp("files") / "model.pth"
  write_pth(file, from_params(params))
  return file


@pytest.fixture(scope="module")
def run(config, file, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run") / "converted"
  to_rkd_jax(config, str(file), str(workdir))
  return str(workdir)


def _equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_detector_restores_what_was_converted(config, params, run):
  _equal(Detector.restore(config, run).variables, {"params": params})


def test_training_starts_from_what_was_converted(config, params, run):
  config = _config()
  config.init.checkpoint = run
  fresh = jax.tree.map(jnp.zeros_like, params)
  state = TrainState(step=jnp.int32(0), params=fresh, model_state={}, opt_state=())
  _equal(initialize(config, state).params, params)


def test_a_part_is_left_out_and_starts_afresh(config, params, file, tmp_path):
  state = {k: v for k, v in read_checkpoint(file).items() if k.startswith("backbone.")}
  state["freq_weight"] = np.ones(3, np.float32)
  write_pth(tmp_path / "part.pth", state)
  workdir = str(tmp_path / "run")
  with pytest.raises(WeightsError, match=r"missing proposal_generator.*\n.*unused freq_weight"):
    to_rkd_jax(config, str(tmp_path / "part.pth"), workdir, [r"roi_heads\..*"])
  assert not Path(workdir).exists()
  allow = [r"(proposal_generator|roi_heads)\..*", "freq_weight"]
  summary = to_rkd_jax(config, str(tmp_path / "part.pth"), workdir, allow)
  assert "not needed: freq_weight" in summary
  assert "left out, for init.allow_missing: params/" in summary and "params/rpn/conv/" in summary
  config = _config()
  config.init.checkpoint = workdir
  config.init.allow_missing = (r"params/(rpn|box_head|box_predictor|classifier)/.*",)
  fresh = jax.tree.map(jnp.zeros_like, params)
  started = initialize(
    config, TrainState(step=jnp.int32(0), params=fresh, model_state={}, opt_state=())
  )
  _equal(started.params, {**fresh, "backbone": params["backbone"]})


def test_training_starts_from_a_file_that_has_a_part(params, file, tmp_path):
  state = {k: v for k, v in read_checkpoint(file).items() if k.startswith("backbone.")}
  state["fc1000.weight"] = np.ones((3, 2), np.float32)
  write_pth(tmp_path / "part.pth", state)
  config = _config()
  config.init.checkpoint = str(tmp_path / "part.pth")
  config.init.allow_missing = (r"params/(rpn|box_head|box_predictor|classifier)/.*",)
  fresh = jax.tree.map(jnp.zeros_like, params)
  start = TrainState(step=jnp.int32(0), params=fresh, model_state={}, opt_state=())
  _equal(initialize(config, start).params, {**fresh, "backbone": params["backbone"]})
  config.init.allow_missing = (r"params/(box_head|box_predictor|classifier)/.*",)
  with pytest.raises(WeightsError, match=r"part\.pth: .*\n *missing proposal_generator"):
    initialize(config, start)


def test_training_in_a_converted_folder_says_how_to_start(config, run):
  with pytest.raises(CheckpointError, match=r"converted parameters.*--config\.init\.checkpoint="):
    train(config, run)


def test_the_command_goes_both_ways(file, params, tmp_path):
  workdir, back = str(tmp_path / "run"), tmp_path / "back" / "model.pth"
  flags = ("--config=tests/tiny.py:unused", "--config.model.backbone.norm=frozen")
  there = _convert(*flags, f"--input={file}", f"--output={workdir}")
  assert there.returncode == 0, there.stderr
  leaves = jax.tree.leaves(params)
  expected = f"{len(leaves)} parameters, {sum(x.size for x in leaves):,} numbers to {workdir}\n"
  assert there.stdout == expected
  again = _convert(*flags, f"--input={workdir}", f"--output={back}", "--to=detectron2")
  assert again.returncode == 0, again.stderr
  assert back.read_bytes() == file.read_bytes()


def test_the_command_fails_with_a_sentence(tmp_path):
  flags = ("--config=tests/tiny.py:unused", f"--output={tmp_path / 'run'}")
  done = _convert(*flags, f"--input={tmp_path / 'none.pth'}")
  assert done.returncode == 1
  assert "none.pth" in done.stderr and "Traceback" not in done.stderr


def test_a_run_that_exists_is_not_overwritten(config, file, run):
  with pytest.raises(ValueError, match="holds a checkpoint already; give another --output"):
    to_rkd_jax(config, str(file), run)


def test_the_way_back_checks_the_config(run, tmp_path):
  config = _config()
  config.model.classifier.temperature = 20.0
  with pytest.raises(CheckpointError, match=r"differs in model\.classifier\.temperature"):
    to_detectron2(config, run, str(tmp_path / "m.pth"))
  assert not list(tmp_path.iterdir())


def test_only_detectors_with_a_counterpart_are_converted(file, tmp_path):
  with pytest.raises(ValueError, match="task is 'clip'; expected the config of a detector"):
    to_rkd_jax(demo.get_config("clip"), str(file), str(tmp_path / "run"))
  with pytest.raises(WeightsError, match=r"conv1_norm/scale has no counterpart .* norm='frozen'"):
    to_rkd_jax(tiny.get_config("unused"), str(file), str(tmp_path / "run"))
  with pytest.raises(WeightsError, match="has no counterpart in detectron2"):
    to_rkd_jax(demo.get_config("base"), str(file), str(tmp_path / "run"))
