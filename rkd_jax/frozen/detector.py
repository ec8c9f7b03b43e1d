"""A trained detector, frozen: what evaluation, prediction and the offline step need of it."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar

import jax
import ml_collections
import numpy as np
from jaxtyping import Bool, Float
from pycocotools import mask as pycocotools_mask

from rkd_jax.frozen.clip import FrozenClip
from rkd_jax.frozen.fusion import open_fusion
from rkd_jax.machine.replicas import Replicas
from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.models.detector import label_boxes, rcnn
from rkd_jax.ops.masks import paste_window
from rkd_jax.runs.config import check_model
from rkd_jax.runs.restore import restore_step
from rkd_jax.structures import Batch, Detections, Proposals, PseudoBoxes

_Found = TypeVar("_Found", Detections, Proposals, PseudoBoxes)


class Detector:
  """A detector with its weights: batches in, detections in pixels of the original images out.

  The vocabulary comes with each call: one compiled detector serves all class lists of a length.

  Attributes:
    variables: {'params': ...}, as `rcnn.abstract_params` describes them.
    step: that of the checkpoint which was read, None of parameters that were given.
  """

  def __init__(self, config: ml_collections.ConfigDict, params: Any, step: int | None = None):
    self.config, self.model = config, rcnn.build(config)
    self._take(params, step)
    precision = config.model.get("precision", "default")
    self._target = Target(jax.local_devices()[0].platform, precision=precision)
    # A multiple of the strides of all configs.
    self._short_side = -(-max(config.data.eval.short_sides) // 64) * 64
    self._fusion = open_fusion(config)
    self._detect = self._jit(self.model.detect)
    self._detect_with_projection = self._jit(self.model.detect_with_projection)
    self._score, self._choose = self._jit(self.model.score), self._jit(self.model.choose)
    self._propose = self._jit(self.model.propose_boxes)
    self._embed = self._jit(self.model.embed_regions)
    self._label_boxes = self._jit(label_boxes.by_every_choice)

  @classmethod
  def restore(cls, config: ml_collections.ConfigDict, checkpoint: str) -> Self:
    """The detector of a run's newest checkpoint that can be read, or of `.../checkpoints/<step>`.

    Raises:
      CheckpointError: there is none, or it belongs to another config.
    """
    expected = {"params": rcnn.abstract_params(config), "model_state": {}}
    check_model(checkpoint, config)
    verify = config.get("checkpoint", {}).get("verify", True)
    step, variables = restore_step(checkpoint, expected, verify=verify)
    return cls(config, variables["params"], step)

  def _take(self, params: Any, step: int | None) -> None:
    self.step, self.variables = step, {"params": params}
    self._replicas = Replicas(self.variables)

  @property
  def fusion_clip(self) -> FrozenClip | None:
    """The CLIP of `model.test.fusion`; None where none is asked.

    Raises ValueError: its embeddings have another width than the detector's.
    """
    fusion = self._fusion
    return fusion.clip if fusion is not None and fusion.kind == "crops" else None

  def with_params(self, params: Any, step: int | None = None) -> Self:
    """The same programs, compiled once for both, on other parameters.

    Those that are replicated on a mesh are used where they are.
    """
    other = copy.copy(self)
    other._take(params, step)
    return other

  def _jit(self, method: Callable) -> Callable:
    def call(variables, *args):
      return self.model.apply(variables, *args, method=method)

    # Several devices take turns, with a program for each.
    return jax.jit(compiled_for(call, self._target))

  def detect(
    self,
    batch: Batch,
    class_embeddings: Float[np.ndarray, "c e"],
    class_valid: Bool[np.ndarray, "c"] | None = None,
    seen: Bool[np.ndarray, "c"] | None = None,
  ) -> Detections:
    """Detections as NumPy arrays, scaled to `original_sizes`, clipped, empty ones invalid.

    Masks stay in the frames of the boxes, as scaled and clipped: `encode_masks` brings those
    that are wanted to the image (as detectron2's `detector_postprocess` does).  Calls from several
    threads spread over the local devices.  Rows that are not `class_valid` are padding, so that
    vocabularies of other lengths need not be compiled for.  `seen` are the classes that had boxes
    in training, which matters where `model.test.fusion` is on.
    """
    images = self._cropped(np.asarray(batch.images), np.asarray(batch.sizes))
    batch = dataclasses.replace(batch, images=images)
    with self._replicas.lease() as variables:
      found = jax.device_get(self._found(variables, batch, class_embeddings, class_valid, seen))
    return _in_original(found, batch)

  def _found(self, variables, batch, rows, class_valid, seen) -> Detections:
    fusion = self._fusion
    if fusion is None:
      return self._detect(variables, batch, rows, class_valid)
    exponents = fusion.exponents(len(rows), seen)
    if fusion.kind == "projection":
      return self._detect_with_projection(variables, batch, rows, class_valid, exponents)
    scored = self._score(variables, batch, rows, class_valid)
    boxes, valid = jax.device_get((scored.crops, scored.crop_valid))
    crop_scores = fusion.crop_scores(batch, boxes, valid, rows, class_valid)
    return self._choose(variables, scored, batch.sizes, crop_scores, exponents)

  def propose(self, batch: Batch) -> Proposals:
    """The RPN's proposals, best first; arrays, boxes and devices as those of `detect`."""
    with self._replicas.lease() as variables:
      found = jax.device_get(self._propose(variables, batch))
    return _in_original(found, batch)

  def _cropped(self, images, sizes):
    """Cuts a canvas that takes lying and standing images where all of a batch lie, or all stand.

    Four shapes at most are compiled, and the canvas changes no result.
    """
    rows, columns = (
      self._short_side if longest <= self._short_side else None for longest in sizes.max(0)
    )
    return images[:, :rows, :columns]

  def embed_regions(self, batch: Batch, boxes: Float[np.ndarray, "b k 4"]) -> np.ndarray:
    """Distilled region embeddings [b, k, e] of boxes in network-input pixels."""
    return jax.device_get(self._embed(self.variables, batch.images, batch.sizes, boxes))

  def label_boxes(
    self, batch: Batch, class_embeddings: Float[np.ndarray, "c e"]
  ) -> dict[str, PseudoBoxes]:
    """The box of each label of an image batch by every choice, in pixels of `original_sizes`."""
    found = jax.device_get(self._label_boxes(self.variables, batch, class_embeddings))
    return {choice: _in_original(own, batch) for choice, own in found.items()}


def _in_original(found: _Found, batch: Batch) -> _Found:
  """The same with boxes scaled to `original_sizes` and clipped; empty ones are not valid."""
  scale = np.asarray(batch.original_sizes, np.float32) / np.asarray(batch.sizes, np.float32)
  height, width = np.split(np.asarray(batch.original_sizes, np.float32)[:, None], 2, axis=2)
  limits = np.concatenate([width, height, width, height], axis=2)
  boxes = np.clip(found.boxes * scale[:, None, [1, 0, 1, 0]], 0.0, limits)
  full = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
  valid = found.valid & full & np.asarray(batch.valid)[:, None]
  return dataclasses.replace(found, boxes=boxes, valid=valid)


def encode_masks(
  masks: Float[np.ndarray, "n m m"], boxes: Float[np.ndarray, "n 4"], height: int, width: int
) -> list[dict[str, Any]]:
  """Masks of detections as COCO's compressed run lengths, in the whole image.

  A pixel belongs to a mask from a probability of 0.5 (detectron2's `detector_postprocess`).  One
  mask at a time is pasted, so that memory does not grow with the number of detections.

  Args:
    masks: probabilities in the frames of `boxes`, which are clipped to the image.

  Returns:
    {'size': [height, width], 'counts': str} of each, as `pycocotools.mask.decode` reads it.
  """
  encoded = []
  for mask, box in zip(masks, boxes, strict=True):
    window, values = paste_window(mask, box, height, width)
    pasted = np.zeros((height, width), np.uint8, order="F")
    pasted[window] = values >= 0.5
    runs = pycocotools_mask.encode(pasted)
    encoded.append({"size": [height, width], "counts": str(runs["counts"], "ascii")})
  return encoded
