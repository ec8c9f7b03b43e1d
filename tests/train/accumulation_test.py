"""A batch in parts gives the update of the whole, on any mesh; what parts cannot do is refused."""

import jax
import numpy as np
import pytest
import tiny

from rkd_jax.benchmark import synthetic
from rkd_jax.configs import demo
from rkd_jax.models.detector import rcnn
from rkd_jax.train.accumulation import parts_of
from rkd_jax.train.sharding import make_mesh
from rkd_jax.train.step import detector_loss
from rkd_jax.train.tasks import Task
from rkd_jax.train.train import Trainer

IMAGES, STEPS, CLASSES = 32, 6, 5


def _config(parts):
  config = tiny.get_config("unused")
  config.gradient_accumulation_steps = parts
  config.model.mask_head.update(layers=1, channels=4, resolution=3)
  config.loss.federated_classes = 3
  config.loss.images_per_group = {"box": 2, "image": 2}
  return config


def _trained(parts, devices):
  """Metrics of box and image steps, in turns, and parameters before and after them."""
  config = _config(parts)
  model, rng = rcnn.build(config), np.random.default_rng(0)

  def init(key):
    return model.init(key, *rcnn.dummy_inputs(config))["params"], {}

  vocabulary = synthetic.vocabulary(config, CLASSES, rng)
  task = Task(init, detector_loss(model, config.loss), vocabulary, plan=None)
  trainer = Trainer(config, task, jax.devices()[:devices])
  state = trainer.create(0)
  before, metrics = jax.device_get(state.params), []
  for step in range(STEPS):
    kind = ("box", "image")[step % 2]
    batch = synthetic.batch(config, kind, IMAGES, (64, 64), CLASSES, rng)
    state, found = trainer.step(state, trainer.place(batch), kind)
    metrics.append(found.read())
  return metrics, before, jax.device_get(state.params)


@pytest.fixture(scope="module")
def whole():
  return _trained(1, 1)


@pytest.mark.parametrize("parts, devices", [pytest.param(4, 1, marks=pytest.mark.hosts), (2, 8)])
def test_parts_train_as_the_whole_batch_does(whole, parts, devices):
  metrics, _, params = _trained(parts, devices)
  expected_metrics, before, expected = whole
  terms = {"rpn_cls", "rpn_box", "cls", "box", "mask", "rkd_l1", "rkd_irm", "loss", "update_norm"}
  assert set(metrics[0]) == terms
  for found, wanted in zip(metrics, expected_metrics, strict=True):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
      assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
  leaves = zip(*map(jax.tree.leaves, (params, expected, before)), strict=True)
  moved = 0.0
  for got, want, start in leaves:
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    moved = max(moved, np.abs(want - start).max())
  assert moved > 1e-3


def _refused(config, devices=1, images=IMAGES):
  mesh = make_mesh(jax.devices()[:devices])
  with pytest.raises(ValueError) as error:
    parts_of(config, mesh, config.data.schedule[0], images)
  return str(error.value)


def test_what_parts_cannot_do_is_refused():
  assert "32 images (data.box.batch_size) does not divide into 3 parts" in _refused(_config(3))
  assert "does not divide into 8 parts (gradient_accumulation_steps) on 8" in _refused(
    _config(8), 8
  )
  message = _refused(_config(4), 8)
  assert "cuts groups of images: a device takes 1 of data.box at a time" in message
  assert "groups have 2 (loss.images_per_group.box)" in message
  assert "takes 1 of data.box at a time, and groups have 2" in _refused(_config(2), images=2)
  assert "is 0; expected 1" in _refused(_config(0))
  config = _config(2)
  config.model.padding.to = "batch"
  assert "model.padding.to='batch'" in _refused(config)
  config = _config(2)
  config.loss.contrastive.weight = 0.1
  message = _refused(config)
  assert "loss.contrastive contrasts each region with all others of its batch" in message
  config = demo.get_config("clip")
  config.gradient_accumulation_steps = 2
  assert "task 'clip' contrasts each image with all others" in _refused(config)


def test_configs_of_before_take_whole_batches():
  config = _config(7).to_dict()
  del config["gradient_accumulation_steps"]
  config = type(_config(1))(config).lock()
  assert parts_of(config, make_mesh(), "box", IMAGES) == 1
