"""The detector as one of Scenic's models."""

import functools

import jax
import numpy as np
import pytest
import tiny

from rkd_jax.train.step import detector_loss, image_keys
from rkd_jax.train.tasks import detector_task
from rkd_jax.train.train import Trainer


@pytest.mark.door
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
    loss = jax.jit(detector_loss(model.flax_model, config.loss), static_argnums=5)
    expected, (terms, _) = loss(params, {}, task.constants, inputs, keys, kind)
    step = model.flax_model.box_step if kind == "box" else model.flax_model.image_step
    given = (inputs, task.constants.embeddings, *([keys[1]] if kind == "box" else []))
    apply = jax.jit(functools.partial(model.flax_model.apply, method=step))
    outputs = apply({"params": params}, *given)
    batch["keys"] = keys[0]
    np.testing.assert_allclose(model.loss_function(outputs, batch), expected, rtol=1e-5)
    found = model.get_metrics_fn("train")(outputs, batch)
    assert found.keys() == terms.keys() and all(count == 8 for _, count in found.values())
    if seen == {"box", "image"}:
      break
  assert seen == {"box", "image"}


def test_without_a_config_it_is_the_demos_detector(scenic):
  from rkd_jax.scenic.model import RKDModel

  model = RKDModel(None, {})
  assert model.config.name == "base" and model.flax_model.box_step
