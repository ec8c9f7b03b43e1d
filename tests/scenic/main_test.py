"""RKD as a project of Scenic, on a stand-in for Scenic's interfaces."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.runs.restore import restore_state
from rkd_jax.train.step import detector_loss, image_keys
from rkd_jax.train.tasks import detector_task
from rkd_jax.train.train import Trainer, train

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.door


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("tiny")
  tiny.build_data(root)
  return root


def _run(root, workdir, *flags):
  config = REPOSITORY / "tests" / "tiny.py"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "rkd_jax.scenic.main"),
      f"--config=rkd_jax/scenic/config.py:{config}:{root}",
      f"--workdir={workdir}",
      *flags,
    ],
    cwd=REPOSITORY,
    env={**os.environ, "SCENIC_PATH": str(REPOSITORY / "tests" / "scenic_stand_in")},
    capture_output=True,
    text=True,
    check=False,
  )
  return done


def test_it_trains_as_our_own_command_does_and_either_goes_on(root, tmp_path):
  ours, theirs = tmp_path / "ours", tmp_path / "theirs"
  theirs.mkdir()
  config = tiny.get_config(str(root))
  expected = train(config, str(ours))
  done = _run(root, theirs)
  assert done.returncode == 0, done.stderr[-2000:]
  lines = [json.loads(line) for line in (theirs / "scenic.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == list(range(1, 13))
  assert {name.split("/")[0] for line in lines for name in line} == {"step", "box", "image"}
  assert (theirs / "config.json").read_bytes() == (ours / "config.json").read_bytes()

  shutil.rmtree(ours / "checkpoints" / "12")
  assert _run(root, ours).returncode == 0
  abstract = Trainer(config, detector_task(config)).abstract_state
  for folder in (ours, theirs):
    params = restore_state(folder, abstract).params
    jax.tree.map(np.testing.assert_array_equal, params, expected.params)


def test_a_loss_that_is_not_finite_ends_it_with_a_sentence(root, tmp_path):
  done = _run(root, tmp_path, "--config.optimizer.learning_rate=1e30")
  assert done.returncode != 0 and "which is not finite. Lower optimizer.learning" in done.stderr
  assert latest_step(tmp_path) is None


def test_the_models_loss_is_what_training_minimises(scenic, root):
  from rkd_jax.scenic.dataset import get_dataset
  from rkd_jax.scenic.model import RKDModel

  config = tiny.get_config(str(root))
  task = detector_task(config)
  trainer = Trainer(config, task)
  dataset = get_dataset(config, task, trainer.place)
  model = RKDModel(config, dataset.meta_data)
  params = trainer.create(0).params
  seen = set()
  for batch in dataset.train_iter:
    kind, inputs = batch["kind"], batch["inputs"]
    if kind in seen:
      continue
    seen.add(kind)
    keys = image_keys(jax.random.key(0), len(inputs.images))
    loss = detector_loss(model.flax_model, config.loss)
    expected, (terms, _) = loss(params, {}, task.constants, inputs, keys, kind)
    step = model.flax_model.box_step if kind == "box" else model.flax_model.image_step
    given = (inputs, task.constants.embeddings, *([keys[1]] if kind == "box" else []))
    outputs = model.flax_model.apply({"params": params}, *given, method=step)
    batch["keys"] = keys[0]
    np.testing.assert_allclose(model.loss_function(outputs, batch), expected, rtol=1e-6)
    found = model.get_metrics_fn("train")(outputs, batch)
    assert found.keys() == terms.keys() and all(count == 8 for _, count in found.values())
    if seen == {"box", "image"}:
      break
  assert seen == {"box", "image"}


def test_the_data_set_has_scenics_facts_and_every_image_once(scenic, root):
  from rkd_jax.scenic.dataset import get_dataset

  config = tiny.get_config(str(root))
  task = detector_task(config)
  mesh_place = Trainer(config, task).place
  dataset = get_dataset(config, task, mesh_place)
  facts = dataset.meta_data
  assert facts["input_shape"] == (-1, 64, 64, 3) and facts["input_dtype"] == np.uint8
  assert facts["num_train_examples"] == 24 and facts["num_eval_examples"] == 8
  assert facts["num_classes"] == len(facts["class_names"]) == len(facts["vocabulary"].embeddings)
  (batch,) = dataset.valid_iter
  assert batch["batch_mask"].all() and len(batch["inputs"].images) == 8
  assert len(batch["inputs"].images.sharding.device_set) == jax.device_count()
  kinds = [batch["kind"] for batch in dataset.train_iter]
  assert kinds == [task.plan.sampler.kind(step) for step in range(config.num_steps)]
