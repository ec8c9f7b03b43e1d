"""Inference and the training steps of a detector, whole and by stage.

Stages are the model's own methods, each compiled alone and fed with what the one before gave.
Their sum need not equal the whole, in which XLA fuses across their borders and frees earlier.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.measure import Budget, Ceilings, Figures, measure
from rkd_jax.benchmark.report import Report
from rkd_jax.losses import total as losses_lib
from rkd_jax.models.detector import rcnn
from rkd_jax.models.detector.rcnn import RCNN
from rkd_jax.runs.state import create_state
from rkd_jax.structures import Outputs
from rkd_jax.train.optimizer import frozen_mask, make_optimizer
from rkd_jax.train.step import detector_loss, make_gradient, make_step

# Rows that are part of another one; sums leave them out.
_PART = "  of which "


class DetectorBenchmark:
  """A config's detector with random parameters and vocabulary on the first device."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    report: Report,
    budget: Budget,
    ceilings: Ceilings,
    num_classes: int = 0,
  ):
    self._config, self._report, self._budget, self._ceilings = config, report, budget, ceilings
    rng = np.random.default_rng(0)
    self._model = rcnn.build(config)
    self._params = jax.device_put(synthetic.params(config, rng))
    self._vocabulary = jax.device_put(synthetic.vocabulary(config, num_classes, rng))
    self._num_classes = self._vocabulary.embeddings.shape[0]

  def inference(self, size: int, canvas: tuple[int, int]) -> None:
    """`detect` on `size` images that fill the canvas."""
    self._report.section(_title("inference", size, canvas))
    model, embeddings = self._model, self._vocabulary.embeddings
    batch = self._batch("inference", size, canvas)

    def detect(params, batch, embeddings):
      return model.apply({"params": params}, batch, embeddings, method=RCNN.detect)

    _, whole = self._measure(detect, self._params, batch, embeddings)
    self._row("inference", whole, size)

    stages = _Stages(self, size)
    maps, proposals = self._until_proposals(stages, batch, train=False)
    logits, deltas, _ = stages.stage(
      "RoIAlign, box head, classifier",
      RCNN.roi_outputs,
      maps,
      batch.sizes,
      proposals.boxes,
      embeddings,
    )
    stages.part("RoIAlign", RCNN.box_pool, maps, batch.sizes, proposals.boxes)
    found = stages.stage(
      "final detections (class NMS)",
      RCNN.final_detections,
      proposals,
      logits,
      deltas,
      batch.sizes,
    )
    if self._config.model.mask_head.layers:
      stages.stage("masks", RCNN.masks, maps, batch.sizes, found.boxes, found.valid)
    stages.sum("sum of stages")

  def step(self, kind: str, size: int, canvas: tuple[int, int]) -> None:
    """A training step on a 'box' or an 'image' batch, as `train.Trainer` runs it."""
    self._report.section(_title(f"{kind} step", size, canvas))
    config = self._config
    batch = self._batch(kind, size, canvas)
    loss = detector_loss(self._model, config.loss)
    frozen = frozen_mask(self._params, config.frozen)
    optimizer = make_optimizer(config.optimizer, config.num_steps, frozen)
    # The step donates its state; `self._params` serve other programs.
    state = jax.jit(
      lambda params: create_state(
        lambda _: (jax.tree.map(jnp.copy, params), {}), optimizer, jax.random.key(0)
      )
    )(self._params)
    key = jax.random.key(config.seed)
    step = functools.partial(make_step(loss, optimizer, frozen), kind=kind)
    (state, metrics), whole = self._measure(step, state, self._vocabulary, batch, key, carry=True)
    self._row(f"{kind} step", whole | {"loss": float(metrics["loss"])}, size)

    args = (self._params, {}, self._vocabulary, batch, key)
    _, forward = self._measure(functools.partial(loss, kind=kind), *args)
    self._row("forward", forward, size)
    gradient = functools.partial(make_gradient(loss, frozen), kind=kind)
    (_, gradient), both = self._measure(gradient, *args)
    self._row("forward and backward", both, size)
    self._row("  backward, by difference", _difference(both, forward), size)

    def update(params, opt_state, gradient):
      updates, opt_state = optimizer.update(gradient, opt_state, params)
      return jax.tree.map(jnp.add, params, updates), opt_state

    _, figures = self._measure(update, self._params, state.opt_state, gradient)
    self._row("optimiser", figures, size)
    del state, gradient
    if kind == "box":
      self._box_stages(batch, size)
    else:
      self._image_stages(batch, size)

  def _box_stages(self, batch, size) -> None:
    keys = jax.random.split(jax.random.key(1), size)
    embeddings = self._vocabulary.embeddings
    stages = _Stages(self, size)
    maps, proposals = self._until_proposals(stages, batch, train=True)
    sample = functools.partial(RCNN.sample_rois, num_classes=self._num_classes)
    rois = stages.stage(
      "matching and sampling of RoIs", sample, proposals, batch.ground_truth, keys=keys
    )
    outputs = self._roi_stages(stages, maps, batch, rois.boxes)
    mask_logits = None
    if self._config.model.mask_head.layers:
      c = self._config.model.roi
      most = int(c.batch_size_per_image * c.positive_fraction)
      foreground = rois.valid & (rois.classes < self._num_classes)
      mask_logits = stages.stage(
        "masks", RCNN.masks, maps, batch.sizes, rois.boxes[:, :most], foreground[:, :most]
      )
    logits, deltas, embeddings = outputs
    outputs = Outputs(stages.rpn, rois, logits, deltas, embeddings, None, mask_logits)
    losses = functools.partial(losses_lib.box_losses, config=self._config.loss)
    stages.function("losses", losses, outputs, batch, self._vocabulary, keys)
    stages.sum("sum of forward stages")

  def _image_stages(self, batch, size) -> None:
    stages = _Stages(self, size)
    maps = stages.stage(self._backbone_name, RCNN.features, batch.images, batch.sizes)
    logits, _, embeddings = self._roi_stages(stages, maps, batch, batch.pseudo_boxes.boxes)
    outputs = Outputs(pseudo_box_logits=logits, region_embeddings=embeddings)
    losses = functools.partial(losses_lib.image_losses, config=self._config.loss)
    stages.function("losses", losses, outputs, batch)
    stages.sum("sum of forward stages")

  def _until_proposals(self, stages: "_Stages", batch, train: bool):
    maps = stages.stage(self._backbone_name, RCNN.features, batch.images, batch.sizes)
    stages.rpn = stages.stage("RPN head", RCNN.rpn_outputs, maps, batch.sizes)
    propose = functools.partial(RCNN.propose, train=train)
    name = "proposals (top-k, decode, NMS)"
    return maps, stages.stage(name, propose, stages.rpn, maps, batch.sizes)

  def _roi_stages(self, stages: "_Stages", maps, batch, boxes):
    """Outputs of `boxes` and the embeddings of teacher regions, which go the same way."""
    rois = boxes.shape[1]
    if batch.regions is not None:
      boxes = jnp.concatenate([boxes, batch.regions.boxes], axis=1)
    logits, deltas, distilled = stages.stage(
      "RoIAlign, box head, classifier",
      RCNN.roi_outputs,
      maps,
      batch.sizes,
      boxes,
      self._vocabulary.embeddings,
    )
    stages.part("RoIAlign", RCNN.box_pool, maps, batch.sizes, boxes)
    embeddings = None if batch.regions is None else distilled[:, rois:]
    return logits[:, :rois], deltas[:, :rois], embeddings

  @property
  def _backbone_name(self) -> str:
    return "backbone and FPN" if self._config.model.fpn.channels else "backbone"

  def _batch(self, kind: str, size: int, canvas: tuple[int, int]):
    rng = np.random.default_rng(1)
    return jax.device_put(synthetic.batch(self._config, kind, size, canvas, self._num_classes, rng))

  def _measure(self, function, *args, carry=False):
    return measure(function, args, self._budget, self._ceilings, carry)

  def _row(self, name: str, figures: Figures, size: int) -> None:
    self._report.row(name, figures | {"images_per_s": size / figures["seconds"], "batch": size})


class _Stages:
  """Measures methods of the model one after the other, and adds them up."""

  def __init__(self, benchmark: DetectorBenchmark, size: int):
    self._benchmark, self._size = benchmark, size
    self._total = {"seconds": 0.0, "cpu_seconds": 0.0, "flops": 0}
    self.rpn = None

  def stage(self, name: str, method: Callable, *args, **kwargs):
    """A method of the model; returns its outputs."""
    model = self._benchmark._model

    def call(params, args, kwargs):
      return model.apply({"params": params}, *args, method=method, **kwargs)

    return self.function(name, call, self._benchmark._params, args, kwargs)

  def part(self, name: str, method: Callable, *args) -> None:
    """As `stage`, of something that a later stage repeats: not part of the sum."""
    before = dict(self._total)
    self.stage(_PART + name, method, *args)
    self._total = before

  def function(self, name: str, function: Callable, *args):
    outputs, figures = self._benchmark._measure(function, *args)
    self._benchmark._row(name, figures, self._size)
    for key in self._total:
      self._total[key] += figures[key]
    return outputs

  def sum(self, name: str) -> None:
    self._benchmark._row(name, self._total, self._size)


def _title(name: str, size: int, canvas: tuple[int, int]) -> str:
  return f"{name}, {size} x {canvas[0]}x{canvas[1]}"


def _difference(both: Figures, part: Figures) -> Figures:
  figures = {k: both[k] - part[k] for k in ("seconds", "cpu_seconds", "flops")}
  return figures | {"flops_per_s": figures["flops"] / figures["seconds"]}
