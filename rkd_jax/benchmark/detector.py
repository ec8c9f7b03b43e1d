"""Inference and the training steps of a detector, whole and by stage.

Stages are the model's own methods, each compiled alone and fed with what the one before gave.
Their sum need not equal the whole, in which XLA fuses across their borders and frees earlier.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rkd_jax.benchmark import comparisons, synthetic
from rkd_jax.benchmark.measure import Figures, measure
from rkd_jax.benchmark.report import Bench, Options
from rkd_jax.losses import total as losses_lib
from rkd_jax.models.detector import label_boxes, rcnn
from rkd_jax.models.detector import rois as rois_lib
from rkd_jax.models.detector.rcnn import RCNN
from rkd_jax.runs.state import create_state
from rkd_jax.structures import Batch, Outputs
from rkd_jax.train.optimizer import frozen_mask, make_optimizer
from rkd_jax.train.step import (
  detector_loss,
  detector_memory,
  image_keys,
  make_gradient,
  make_step,
)

PROGRAMS = ("inference", "box", "image", "forms")
DTYPES = ("float32", "bfloat16")


def run(config: ml_collections.ConfigDict, options: Options) -> list[dict]:
  """Prints the tables of a config; the rows, as they are in the JSON.

  Raises:
    ValueError: the config is not of a detector, or an option is not understood.
  """
  _check(config, options)
  programs = options.programs or ("inference", *dict.fromkeys(config.data.schedule), "forms")
  groups = config.loss.images_per_group
  box_batches = options.box_batches or (groups.box,)
  image_batches = options.image_batches or (groups.image,)
  half = tuple(side // 2 for side in options.canvas)
  bench = Bench(config.name, config.model.dtype, options, config)
  detector = _Detector(config, bench)
  for kind, sizes, canvas in (
    ("inference", options.inference_batches, options.canvas),
    ("box", box_batches, options.canvas),
    ("image", image_batches, half),
  ):
    for size in sizes if kind in programs else ():
      detector.measure(kind, size, canvas)
  if "forms" in programs:
    comparisons.forms(config, bench)
  if options.torch:
    comparisons.against_torch(config, bench, box_batches[0])
  return bench.rows


def _check(config: ml_collections.ConfigDict, options: Options) -> None:
  if config.task != "detector":
    raise ValueError(f"The config trains task {config.task!r}; the benchmark is of detectors.")
  if config.model.dtype not in DTYPES:
    raise ValueError(f"dtype is {config.model.dtype!r}; expected one of {', '.join(DTYPES)}.")
  unknown = ", ".join(sorted(set(options.programs) - set(PROGRAMS)))
  if unknown:
    raise ValueError(f"programs: {unknown} unknown; known: {', '.join(PROGRAMS)}.")
  sizes = (*options.inference_batches, *options.box_batches, *options.image_batches)
  if not options.inference_batches or min(sizes) < 1 or options.steps < 1:
    raise ValueError("Batch sizes and steps are at least 1; give at least one inference batch.")
  # An image step has half the canvas, and an FPN's coarsest map a stride of 64.
  if min(options.canvas) < 64:
    raise ValueError(f"canvas is {options.canvas}; expected HEIGHTxWIDTH, at least 64x64.")


class _Detector:
  """A config's detector with random parameters and vocabulary on the first device."""

  def __init__(self, config: ml_collections.ConfigDict, bench: Bench):
    self._config, self._bench = config, bench
    rng = np.random.default_rng(0)
    self._model = rcnn.build(config)
    self._params = jax.device_put(synthetic.params(config, rng))
    self._vocabulary = jax.device_put(synthetic.vocabulary(config, bench.options.num_classes, rng))
    self._num_classes = self._vocabulary.embeddings.shape[0]

  def measure(self, kind: str, size: int, canvas: tuple[int, int]) -> None:
    """`detect` ('inference') or a training step ('box', 'image') on images that fill the canvas."""
    title = kind if kind == "inference" else f"{kind} step"
    self._bench.section(f"{title}, {size} x {canvas[0]}x{canvas[1]}")
    rng = np.random.default_rng(1)
    batch = synthetic.batch(self._config, kind, size, canvas, self._num_classes, rng)
    self._images, self._total = size, {"seconds": 0.0, "cpu_seconds": 0.0, "flops": 0}
    if kind == "inference":
      self._inference(jax.device_put(batch))
    else:
      self._step(kind, jax.device_put(batch))

  def _inference(self, batch: Batch) -> None:
    self._method("inference", RCNN.detect, batch, self._vocabulary.embeddings)
    maps, _, proposals = self._until_proposals(batch, train=False)
    logits, deltas, _ = self._roi_stages(maps, batch, proposals.boxes)

    def detections(model, *args):
      return rois_lib.detections(*args, config=model.config.test)

    name = "final detections (class NMS)"
    found = self._stage(name, detections, proposals, logits, deltas, batch.sizes)
    if self._config.model.mask_head.layers:
      self._stage("masks", RCNN.masks, maps, batch.sizes, found.boxes, found.valid)
    self._bench.row("sum of stages", self._total, self._images)

  def _step(self, kind: str, batch: Batch) -> None:
    """As `train.Trainer` runs it."""
    config, bench, images = self._config, self._bench, self._images
    loss = detector_loss(self._model, config.loss)
    frozen = frozen_mask(self._params, config.frozen)
    optimizer = make_optimizer(config.optimizer, config.num_steps, frozen)
    # The step donates its state; `self._params` serve other programs.
    copied = jax.tree.map(jnp.copy, self._params)
    memory = functools.partial(detector_memory, config)
    state = create_state(lambda _: (copied, {}), optimizer, jax.random.key(0), memory)
    key = jax.random.key(config.seed)
    step = functools.partial(make_step(loss, optimizer, frozen), kind=kind)
    args = (state, self._vocabulary, batch, key)
    (state, metrics), whole = measure(
      step, args, bench.options, bench.ceilings, carry=True, kernels=bench.options.kernels
    )
    bench.row(f"{kind} step", whole | {"loss": float(metrics.read()["loss"])}, images)

    args = (self._params, memory(), self._vocabulary, batch, image_keys(key, images))
    forward = functools.partial(loss, kind=kind)
    _, forward = bench.measure("forward", forward, *args, images=images)
    both = functools.partial(make_gradient(loss, frozen), kind=kind)
    (_, gradient), both = bench.measure("forward and backward", both, *args, images=images)
    backward = {k: both[k] - forward[k] for k in ("seconds", "cpu_seconds", "flops")}
    backward["flops_per_s"] = backward["flops"] / backward["seconds"]
    bench.row("  backward, by difference", backward, images)

    def update(params, opt_state, gradient):
      updates, opt_state = optimizer.update(gradient, opt_state, params)
      return jax.tree.map(jnp.add, params, updates), opt_state

    bench.measure("optimiser", update, self._params, state.opt_state, gradient, images=images)
    del args, state, gradient
    (self._box_stages if kind == "box" else self._image_stages)(batch)
    bench.row("sum of forward stages", self._total, images)

  def _box_stages(self, batch: Batch) -> None:
    keys = jax.random.split(jax.random.key(1), len(batch.images))
    maps, rpn, proposals = self._until_proposals(batch, train=True)

    def sample(model, *args):
      return rois_lib.sample(*args, num_classes=self._num_classes, config=model.config.roi)

    name = "matching and sampling of RoIs"
    rois = self._stage(name, sample, proposals, batch.ground_truth, keys)
    logits, deltas, embeddings = self._roi_stages(maps, batch, rois.boxes)
    mask_logits = None
    if self._config.model.mask_head.layers:
      c = self._config.model.roi
      most = int(c.batch_size_per_image * c.positive_fraction)
      foreground = rois.valid & (rois.classes < self._num_classes)
      args = (maps, batch.sizes, rois.boxes[:, :most], foreground[:, :most])
      mask_logits = self._stage("masks", RCNN.masks, *args)
    outputs = Outputs(rpn, rois, logits, deltas, embeddings, None, mask_logits)
    self._losses(losses_lib.box_losses, outputs, batch, self._vocabulary, keys)

  def _image_stages(self, batch: Batch) -> None:
    choice, proposals = self._model.ils_boxes, None
    if choice in label_boxes.OF_PROPOSALS:
      maps, _, proposals = self._until_proposals(batch, train=True)
    else:
      maps = self._maps(batch)
    boxes, valid = batch.pseudo_boxes.boxes, None
    if choice != label_boxes.PSEUDO:

      def candidates(_, *args):
        return label_boxes.candidates(choice, *args)

      boxes, valid = self._stage("candidates of the labels", candidates, batch, proposals)
    logits, _, embeddings = self._roi_stages(maps, batch, boxes)
    if choice != label_boxes.PSEUDO:

      def of_labels(_, logits, *args):
        return label_boxes.of_labels(choice, logits, logits, *args)

      args = (logits, valid, batch.pseudo_boxes)
      logits, valid = self._stage("choice of the labels", of_labels, *args)
    outputs = Outputs(pseudo_box_logits=logits, region_embeddings=embeddings, label_valid=valid)
    self._losses(losses_lib.image_losses, outputs, batch)

  def _maps(self, batch: Batch):
    name = "backbone and FPN" if self._config.model.fpn.channels else "backbone"
    return self._stage(name, RCNN.features, batch.images, batch.sizes)

  def _until_proposals(self, batch: Batch, train: bool):
    maps = self._maps(batch)
    rpn = self._stage("RPN head", RCNN.rpn_outputs, maps, batch.sizes)
    propose = functools.partial(RCNN.propose, train=train)
    name = "proposals (top-k, decode, NMS)"
    return maps, rpn, self._stage(name, propose, rpn, maps, batch.sizes)

  def _roi_stages(self, maps, batch: Batch, boxes):
    """Outputs of `boxes` and the embeddings of teacher regions, which go the same way."""
    rois = boxes.shape[1]
    if batch.regions is not None:
      boxes = jnp.concatenate([boxes, batch.regions.boxes], axis=1)
    args = (maps, batch.sizes, boxes)
    name, rows = "RoIAlign, box head, classifier", self._vocabulary.embeddings
    logits, deltas, distilled = self._stage(name, RCNN.roi_outputs, *args, rows)
    self._method("  of which RoIAlign", RCNN.box_pool, *args)
    embeddings = None if batch.regions is None else distilled[:, rois:]
    return logits[:, :rois], deltas[:, :rois], embeddings

  def _losses(self, function: Callable, *args) -> None:
    function = functools.partial(function, config=self._config.loss)
    self._add(self._bench.measure("losses", function, *args, images=self._images))

  def _stage(self, name: str, method: Callable, *args, **kwargs):
    """Measures a method of the model as a part of the sum; its outputs."""
    return self._add(self._method(name, method, *args, **kwargs))

  def _method(self, name: str, method: Callable, *args, **kwargs):
    def call(params, args, kwargs):
      return self._model.apply({"params": params}, *args, method=method, **kwargs)

    return self._bench.measure(name, call, self._params, args, kwargs, images=self._images)

  def _add(self, measured: tuple[Any, Figures]):
    outputs, figures = measured
    for key in self._total:
      self._total[key] += figures[key]
    return outputs
