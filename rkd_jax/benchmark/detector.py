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
from rkd_jax.benchmark.measure import measure
from rkd_jax.benchmark.report import Bench
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

  def __init__(self, config: ml_collections.ConfigDict, bench: Bench, num_classes: int = 0):
    self._config, self._bench = config, bench
    rng = np.random.default_rng(0)
    self._model = rcnn.build(config)
    self._params = jax.device_put(synthetic.params(config, rng))
    self._vocabulary = jax.device_put(synthetic.vocabulary(config, num_classes, rng))
    self._num_classes = self._vocabulary.embeddings.shape[0]

  def inference(self, size: int, canvas: tuple[int, int]) -> None:
    """`detect` on `size` images that fill the canvas."""
    batch = self._open("inference", "inference", size, canvas)
    stages = _Stages(self._bench, self._model, self._params, size)
    stages.part("inference", RCNN.detect, batch, self._vocabulary.embeddings)
    maps, _, proposals = self._until_proposals(stages, batch, train=False)
    logits, deltas, _ = self._roi_stages(stages, maps, batch, proposals.boxes)
    name = "final detections (class NMS)"
    found = stages.stage(name, RCNN.final_detections, proposals, logits, deltas, batch.sizes)
    if self._config.model.mask_head.layers:
      stages.stage("masks", RCNN.masks, maps, batch.sizes, found.boxes, found.valid)
    stages.sum("sum of stages")

  def step(self, kind: str, size: int, canvas: tuple[int, int]) -> None:
    """A training step on a 'box' or an 'image' batch, as `train.Trainer` runs it."""
    batch = self._open(kind, f"{kind} step", size, canvas)
    config, bench = self._config, self._bench
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
    args = (state, self._vocabulary, batch, key)
    (state, metrics), whole = measure(step, args, bench.budget, bench.ceilings, carry=True)
    bench.row(f"{kind} step", whole | {"loss": float(metrics["loss"])}, size)

    args = (self._params, {}, self._vocabulary, batch, key)
    forward = functools.partial(loss, kind=kind)
    _, forward = bench.measure("forward", forward, *args, images=size)
    both = functools.partial(make_gradient(loss, frozen), kind=kind)
    (_, gradient), both = bench.measure("forward and backward", both, *args, images=size)
    backward = {k: both[k] - forward[k] for k in ("seconds", "cpu_seconds", "flops")}
    backward["flops_per_s"] = backward["flops"] / backward["seconds"]
    bench.row("  backward, by difference", backward, size)

    def update(params, opt_state, gradient):
      updates, opt_state = optimizer.update(gradient, opt_state, params)
      return jax.tree.map(jnp.add, params, updates), opt_state

    bench.measure("optimiser", update, self._params, state.opt_state, gradient, images=size)
    del args, state, gradient
    stages = _Stages(bench, self._model, self._params, size)
    (self._box_stages if kind == "box" else self._image_stages)(stages, batch)
    stages.sum("sum of forward stages")

  def _box_stages(self, stages: "_Stages", batch) -> None:
    keys = jax.random.split(jax.random.key(1), len(batch.images))
    maps, rpn, proposals = self._until_proposals(stages, batch, train=True)
    sample = functools.partial(RCNN.sample_rois, num_classes=self._num_classes)
    rois = stages.stage(
      "matching and sampling of RoIs", sample, proposals, batch.ground_truth, keys=keys
    )
    logits, deltas, embeddings = self._roi_stages(stages, maps, batch, rois.boxes)
    mask_logits = None
    if self._config.model.mask_head.layers:
      c = self._config.model.roi
      most = int(c.batch_size_per_image * c.positive_fraction)
      foreground = rois.valid & (rois.classes < self._num_classes)
      mask_logits = stages.stage(
        "masks", RCNN.masks, maps, batch.sizes, rois.boxes[:, :most], foreground[:, :most]
      )
    outputs = Outputs(rpn, rois, logits, deltas, embeddings, None, mask_logits)
    losses = functools.partial(losses_lib.box_losses, config=self._config.loss)
    stages.function("losses", losses, outputs, batch, self._vocabulary, keys)

  def _image_stages(self, stages: "_Stages", batch) -> None:
    maps = stages.stage(self._backbone_name, RCNN.features, batch.images, batch.sizes)
    logits, _, embeddings = self._roi_stages(stages, maps, batch, batch.pseudo_boxes.boxes)
    outputs = Outputs(pseudo_box_logits=logits, region_embeddings=embeddings)
    losses = functools.partial(losses_lib.image_losses, config=self._config.loss)
    stages.function("losses", losses, outputs, batch)

  def _until_proposals(self, stages: "_Stages", batch, train: bool):
    maps = stages.stage(self._backbone_name, RCNN.features, batch.images, batch.sizes)
    rpn = stages.stage("RPN head", RCNN.rpn_outputs, maps, batch.sizes)
    propose = functools.partial(RCNN.propose, train=train)
    name = "proposals (top-k, decode, NMS)"
    return maps, rpn, stages.stage(name, propose, rpn, maps, batch.sizes)

  def _roi_stages(self, stages: "_Stages", maps, batch, boxes):
    """Outputs of `boxes` and the embeddings of teacher regions, which go the same way."""
    rois = boxes.shape[1]
    if batch.regions is not None:
      boxes = jnp.concatenate([boxes, batch.regions.boxes], axis=1)
    args = (maps, batch.sizes, boxes)
    logits, deltas, distilled = stages.stage(
      "RoIAlign, box head, classifier", RCNN.roi_outputs, *args, self._vocabulary.embeddings
    )
    stages.part(_PART + "RoIAlign", RCNN.box_pool, *args)
    embeddings = None if batch.regions is None else distilled[:, rois:]
    return logits[:, :rois], deltas[:, :rois], embeddings

  @property
  def _backbone_name(self) -> str:
    return "backbone and FPN" if self._config.model.fpn.channels else "backbone"

  def _open(self, kind: str, title: str, size: int, canvas: tuple[int, int]):
    """Begins a section; its batch."""
    self._bench.section(f"{title}, {size} x {canvas[0]}x{canvas[1]}")
    rng = np.random.default_rng(1)
    return jax.device_put(synthetic.batch(self._config, kind, size, canvas, self._num_classes, rng))


class _Stages:
  """Measures methods of the model one after the other, and adds them up."""

  def __init__(self, bench: Bench, model: RCNN, params, images: int):
    self._bench, self._model, self._params, self._images = bench, model, params, images
    self._total = {"seconds": 0.0, "cpu_seconds": 0.0, "flops": 0}

  def part(self, name: str, method: Callable, *args, **kwargs):
    """A method of the model that is not part of the sum; its outputs and figures."""

    def call(params, args, kwargs):
      return self._model.apply({"params": params}, *args, method=method, **kwargs)

    return self._bench.measure(name, call, self._params, args, kwargs, images=self._images)

  def stage(self, name: str, method: Callable, *args, **kwargs):
    """A method of the model; its outputs."""
    return self._add(self.part(name, method, *args, **kwargs))

  def function(self, name: str, function: Callable, *args):
    """A stage that is no method of the model; its outputs."""
    return self._add(self._bench.measure(name, function, *args, images=self._images))

  def sum(self, name: str) -> None:
    self._bench.row(name, self._total, self._images)

  def _add(self, measured):
    outputs, figures = measured
    for key in self._total:
      self._total[key] += figures[key]
    return outputs
