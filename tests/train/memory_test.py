"""What a loss remembers of earlier batches: the same when a run goes on, and on any devices.

The detector is a matrix that the teacher's embeddings are multiplied with, so that the loop, the
losses and the queue are the real ones and compile in seconds.
"""

import dataclasses
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rkd_jax.inputs.batching import train_batches
from rkd_jax.losses.infonce import empty_queue
from rkd_jax.runs.checkpoint import items_of, leaves_of
from rkd_jax.runs.metrics import METRICS_FILE, read_metrics
from rkd_jax.runs.restore import restore_variables
from rkd_jax.structures import Outputs, RoiSamples, RpnOutputs
from rkd_jax.train import tasks
from rkd_jax.train import train as train_lib
from rkd_jax.train.step import detector_loss, detector_memory
from rkd_jax.train.tasks import make_task

# Of 32 regions of a pair of steps; the tiny data have 48.
QUEUE = 20


class _Matrix:
  """In place of the detector: region embeddings are the teacher's, turned by a matrix."""

  box_step, image_step = "box", "image"

  def apply(self, variables, batch, embeddings, keys=None, method=""):
    w, count = variables["params"]["w"], len(batch.images)
    turned = batch.regions.embeddings @ w
    if method == "image":
      logits = (turned @ embeddings.T)[:, :1].repeat(batch.pseudo_boxes.valid.shape[1], 1)
      return Outputs(
        pseudo_box_logits=jnp.pad(logits, ((0, 0), (0, 0), (0, 1))), region_embeddings=turned
      )
    anchors = jnp.array([[0.0, 0, 28, 28], [20, 20, 60, 60]])
    each, valid = (count, 2), jnp.ones((count, 2), bool)
    rois = jnp.broadcast_to(anchors, (*each, 4))
    classes = jnp.zeros(each, jnp.int32)
    zeros = jnp.zeros((*each, 4)) + w.sum()
    return Outputs(
      rpn=RpnOutputs(anchors, zeros[..., 0], zeros, valid),
      rois=RoiSamples(rois, classes, rois, classes, valid),
      class_logits=jnp.pad(turned @ embeddings.T, ((0, 0), (0, 0), (0, 1))),
      box_deltas=zeros,
      region_embeddings=turned,
    )


def _config(root, **contrastive):
  config = tiny.get_config(str(root))
  config.loss.contrastive.update(dict(weight=0.5, queue=QUEUE) | contrastive)
  config.loss.relations.weight = 1.0
  config.loss.rpn.teacher_boxes.below = 0.5
  config.num_steps = 8
  return config


def _make_task(config, workdir):
  w = jax.random.normal(jax.random.key(3), (tiny.EMBEDDING_DIM, tiny.EMBEDDING_DIM)) / 4
  return dataclasses.replace(
    make_task(config, workdir),
    init=lambda key: ({"w": w}, {}),
    loss=detector_loss(_Matrix(), config.loss),
  )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  path = tmp_path_factory.mktemp("memory")
  tiny.build_data(path)
  with tiny.compiled_once(path), pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_lib, "make_task", _make_task)
    yield path


@pytest.fixture(scope="module")
def whole(root):
  """A run on 8 devices: its folder, last state and metrics."""
  workdir = root / "whole"
  state = train_lib.train(_config(root), str(workdir))
  return workdir, jax.device_get(state), read_metrics(workdir / METRICS_FILE)


def _seen(root, steps):
  """The batches that a run read, in their order."""
  plan = make_task(_config(root), str(root)).plan
  return [(kind, batch) for _, kind, batch in train_batches(plan, 0, steps, threads=1)]


def test_the_queue_is_what_the_last_batches_held(root, whole):
  _, state, metrics = whole
  rows = [
    row
    for _, batch in _seen(root, 8)[::-1]
    for row in batch.regions.embeddings[np.asarray(batch.regions.valid)]
  ]
  queue = state.memory["queue"]
  assert len(rows) > QUEUE and queue.valid.all()
  np.testing.assert_array_equal(queue.embeddings, rows[:QUEUE])
  terms = {"rkd_l1", "rkd_irm", "rkd_contrastive", "rkd_relations"}
  assert all(terms <= m.keys() for m in metrics)
  assert min(m["rkd_contrastive"] for m in metrics) > 0.5


def test_a_run_goes_on_with_its_queue_to_the_last_bit(root, whole):
  workdir, state, metrics = whole
  resumed = root / "resumed"
  shutil.copytree(workdir, resumed)
  shutil.rmtree(resumed / "checkpoints" / "8")
  again = train_lib.train(_config(root), str(resumed))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), state)
  assert read_metrics(resumed / METRICS_FILE) == metrics


def test_the_number_of_devices_changes_nothing(root, whole):
  _, state, metrics = whole
  config = _config(root)
  trainer = train_lib.Trainer(config, _make_task(config, str(root)), jax.devices()[:1])
  own = trainer.create(config.seed)
  for wanted, (kind, batch) in zip(metrics, _seen(root, 8), strict=True):
    own, found = trainer.step(own, trainer.place(batch), kind)
    for name, value in found.read().items():
      assert value == pytest.approx(wanted[name], rel=1e-5, abs=1e-6), name
  np.testing.assert_allclose(own.params["w"], state.params["w"], rtol=0, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(own.memory), state.memory)


def test_the_queue_is_no_part_of_the_network(root, whole):
  """Who reads the network, or starts from it, needs no queue; a fresh one is empty."""
  workdir, state, _ = whole
  found = restore_variables(workdir, {"params": state.params, "model_state": {}})
  np.testing.assert_array_equal(found["params"]["w"], state.params["w"])
  config = _config(root)
  config.init.checkpoint = str(workdir)
  trainer = train_lib.Trainer(config, _make_task(config, str(root)))
  begun = tasks.initialize(config, trainer.create(0))
  np.testing.assert_array_equal(begun.params["w"], state.params["w"])
  assert not np.any(begun.memory["queue"].valid)
  paths = leaves_of(items_of(state)).keys() - leaves_of(items_of(state.replace(memory={}))).keys()
  assert paths == {"memory/queue/embeddings", "memory/queue/valid"}


def test_a_step_that_is_not_finite_is_not_remembered(root):
  config = _config(root)
  config.on_nonfinite = "skip(2)"
  trainer = train_lib.Trainer(config, _make_task(config, str(root)))
  (kind, batch), *_ = _seen(root, 1)
  bad = dataclasses.replace(
    batch,
    regions=dataclasses.replace(
      batch.regions, embeddings=np.full_like(batch.regions.embeddings, np.nan)
    ),
  )
  state, _ = trainer.step(trainer.create(0), trainer.place(bad), kind)
  assert int(state.step) == 1 and not np.any(state.memory["queue"].valid)
  state, _ = trainer.step(state, trainer.place(batch), kind)
  assert np.sum(state.memory["queue"].valid) == np.sum(batch.regions.valid)


@pytest.mark.parametrize("change", [{"weight": 0.0}, {"queue": 0}])
def test_without_contrast_or_queue_nothing_is_remembered(root, change):
  config = _config(root, **change)
  assert detector_memory(config) == {}
  trainer = train_lib.Trainer(config, _make_task(config, str(root)))
  assert trainer.abstract_state.memory == {}
  assert items_of(trainer.abstract_state)["optimizer"].keys() == {"opt_state", "step"}
  del config.loss["contrastive"]  # of a config of before
  assert detector_memory(config) == {}


def test_image_batches_whose_regions_are_not_distilled_are_not_remembered(root):
  config = _config(root)
  config.loss.rkd.on_image_batches = False
  loss, task = detector_loss(_Matrix(), config.loss), make_task(config, str(root))
  (_, box), (_, image) = _seen(root, 2)
  carried = {"queue": empty_queue(QUEUE, tiny.EMBEDDING_DIM)}
  args = {"w": jnp.eye(tiny.EMBEDDING_DIM)}, carried, jax.tree.map(jnp.asarray, task.constants)
  for kind, batch, count in (("box", box, 16), ("image", image, 0)):
    batch, keys = jax.tree.map(jnp.asarray, batch), (None, None)
    _, (terms, after) = jax.jit(loss, static_argnums=5)(*args, batch, keys, kind)
    assert ("rkd_contrastive" in terms) == (kind == "box")
    assert int(after["queue"].valid.sum()) == count


def _refused(change, records=12):
  config = tiny.get_config("unused")
  config.update_from_flattened_dict(change)
  sources = dict.fromkeys(config.data.schedule, range(records))
  plan = types.SimpleNamespace(schedule=config.data.schedule, sources=sources)
  try:
    tasks.check_distillation(config, plan)
  except ValueError as error:
    return str(error)
  return ""


CONTRAST, RELATIONS, TEACHER = (
  f"loss.{name}" for name in ("contrastive.weight", "relations.weight", "rpn.teacher_boxes.below")
)
BOXES, AGREEMENT = "loss.ils.boxes", "loss.pseudo_agreement"
NO_REGIONS = {"data.box.max_regions": 0, "data.image.max_regions": 0}


@pytest.mark.parametrize(
  "change, part",
  [
    ({CONTRAST: -1.0}, "loss.contrastive.weight is -1.0; expected 0"),
    ({RELATIONS: -1.0}, "loss.relations.weight is -1.0; expected 0"),
    ({CONTRAST: 1.0, "loss.contrastive.temperature": 0.0}, "contrastive.temperature is 0.0; exp"),
    ({RELATIONS: 1.0, "loss.relations.temperature": -5.0}, "relations.temperature is -5.0; exp"),
    ({CONTRAST: 1.0, **NO_REGIONS}, "weight is 1.0, but no regions are distilled: set data.box.m"),
    ({RELATIONS: 1.0, **NO_REGIONS}, "loss.relations.weight is 1.0, but no regions are"),
    ({CONTRAST: 1.0, "loss.contrastive.duplicates": 0.0}, "duplicates is 0.0; expected a cosine"),
    ({CONTRAST: 1.0, "loss.contrastive.duplicates": 1.5}, "duplicates is 1.5; expected a cosine"),
    ({CONTRAST: 1.0, "loss.contrastive.queue": -1}, "queue is -1; expected 0 up to 48"),
    (
      {CONTRAST: 1.0, "loss.contrastive.queue": 49},
      "queue is 49; expected 0 up to 48, as many as 12 records of 2 regions (data.box) and 12 "
      "records of 2 regions (data.image) can give",
    ),
    (
      {CONTRAST: 1.0, "loss.contrastive.queue": 25, "loss.rkd.on_image_batches": False},
      "queue is 25; expected 0 up to 24, as many as 12 records of 2 regions (data.box) can",
    ),
    ({TEACHER: 1.5}, "loss.rpn.teacher_boxes.below is 1.5; expected an IoU"),
    ({TEACHER: 0.5, "data.box.max_regions": 0}, "below is 0.5, but box batches have no regions"),
    ({TEACHER: 0.5, "data.schedule": ("image",)}, "below is 0.5, but box batches have no regions"),
    ({BOXES: "biggest"}, "loss.ils.boxes is 'biggest'; expected one of 'pseudo', 'image', 'larges"),
    (
      {BOXES: "largest_region", "data.image.max_regions": 0},
      "loss.ils.boxes is 'largest_region', but image batches have no regions: set data.image.max_r",
    ),
    (
      {BOXES: "best_proposal", "data.schedule": ("box",)},
      "loss.ils.boxes is 'best_proposal', but there are no image batches, whose labels it is about",
    ),
    (
      {f"{AGREEMENT}.threshold": 2.0},
      "agreement.threshold is 2.0; expected a mean of two probabil",
    ),
    ({f"{AGREEMENT}.on": True}, "agreement.on is True, but box batches have no pseudo labels: set"),
  ],
)
def test_what_makes_no_sense_is_refused(change, part):
  message = _refused(change)
  assert part in message and message.count(". ") == 0


def test_what_makes_sense_is_not_refused():
  assert not _refused({})
  # What is off may have any settings.
  assert not _refused({"loss.contrastive.temperature": 0.0, "loss.contrastive.queue": 10**9})
  assert not _refused(NO_REGIONS)
  assert not _refused({BOXES: "largest_proposal", **NO_REGIONS})
  assert not _refused({BOXES: "largest_region", "loss.rkd.on_image_batches": False})
  assert not _refused({f"{AGREEMENT}.on": True, "data.box.pseudo_labels": 2})
  full = {CONTRAST: 1.0, RELATIONS: 1.0, TEACHER: 0.5, "loss.contrastive.queue": 48}
  assert not _refused(full | {"loss.contrastive.duplicates": 1.0})


def test_training_refuses_before_any_step(root, tmp_path):
  config = _config(root, queue=1000)
  with pytest.raises(ValueError, match=r"loss\.contrastive\.queue is 1,000; expected 0 up to 48"):
    train_lib.train(config, str(tmp_path))
  assert not (tmp_path / "checkpoints").exists() and not (tmp_path / METRICS_FILE).exists()
