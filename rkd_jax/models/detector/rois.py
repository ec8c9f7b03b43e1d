"""RoIs before and after the head: sampling for training, final detections at test time."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float, Int, Key

from rkd_jax.machine.target import over_images
from rkd_jax.ops import boxes as boxes_lib
from rkd_jax.ops import matching, sampling
from rkd_jax.ops.nms import nms
from rkd_jax.ops.top_k import top_k
from rkd_jax.structures import Detections, GroundTruth, Proposals, RoiSamples


def sample(
  proposals: Proposals,
  ground_truth: GroundTruth,
  keys: Key[Array, "b"] | None,
  num_classes: int,
  config: ml_collections.FrozenConfigDict,
) -> RoiSamples:
  """Appends the ground truth to the proposals, matches and samples, per image.

  Foreground first, then background, whose class is `num_classes`.  `keys` holds one key per image;
  None takes the first that fit rather than a random choice.  `config` is `config.model.roi`.
  """

  def one_image(boxes, valid, gt_boxes, gt_classes, gt_valid, gt_pseudo, key):
    boxes = jnp.concatenate([boxes, gt_boxes])
    valid = jnp.concatenate([valid, gt_valid])
    iou = boxes_lib.pairwise_iou(gt_boxes, boxes)
    gt_index, label = matching.match(
      iou, gt_valid, config.iou_threshold, config.iou_threshold, allow_low_quality=False
    )
    label = jnp.where(valid, label, -1)
    index, foreground, valid = sampling.sample_foreground_background(
      key, label, config.batch_size_per_image, config.positive_fraction
    )
    matched = gt_index[index]
    return RoiSamples(
      boxes=jnp.where(valid[:, None], boxes[index], 0.0),
      classes=jnp.where(foreground, gt_classes[matched], num_classes),
      gt_boxes=gt_boxes[matched],
      gt_index=matched,
      valid=valid,
      pseudo=None if gt_pseudo is None else foreground & gt_pseudo[matched],
    )

  found, truth = proposals, ground_truth
  rows = truth.boxes, truth.classes, truth.valid, truth.pseudo
  return over_images(one_image, found.boxes, found.valid, *rows, keys)


def detections(
  proposals: Proposals,
  logits: Float[Array, "b p c1"],
  deltas: Float[Array, "b p 4"],
  sizes: Int[Array, "b 2"],
  config: ml_collections.FrozenConfigDict,
  class_valid: Bool[Array, "c"] | None = None,
) -> Detections:
  """Boxes above the score threshold after class-wise NMS, best first, without masks.

  Sigmoid scores of the C class columns (background is the last logit); one proposal may yield
  several classes; no objectness, no background competition.  Boxes are clipped to `sizes`;
  `config` is `config.model.test`.  Classes that are not `class_valid` are never found.
  """
  num_classes = logits.shape[-1] - 1
  if class_valid is not None:
    logits = logits.at[..., :num_classes].set(
      jnp.where(class_valid, logits[..., :num_classes], -jnp.inf)
    )

  def one_image(boxes, valid, logits, deltas, size):
    boxes = boxes_lib.clip(boxes_lib.decode(deltas, boxes, boxes_lib.ROI_WEIGHTS), size)
    return _best(boxes, jax.nn.sigmoid(logits[:, :num_classes]), valid, config)

  return over_images(one_image, proposals.boxes, proposals.valid, logits, deltas, sizes)


def decoded(
  proposals: Proposals, deltas: Float[Array, "b p 4"], sizes: Int[Array, "b 2"]
) -> Float[Array, "b p 4"]:
  """The boxes that the box predictor makes of proposals, clipped to `sizes`."""

  def one_image(boxes, deltas, size):
    return boxes_lib.clip(boxes_lib.decode(deltas, boxes, boxes_lib.ROI_WEIGHTS), size)

  return over_images(one_image, proposals.boxes, deltas, sizes)


def best(
  boxes: Float[Array, "b p 4"],
  scores: Float[Array, "b p c"],
  valid: Bool[Array, "b p"],
  config: ml_collections.FrozenConfigDict,
) -> Detections:
  """`detections` of boxes and scores that are final; RoIs that are not valid are left out."""
  return over_images(functools.partial(_best, config=config), boxes, scores, valid)


def _best(boxes, scores, valid, config: ml_collections.FrozenConfigDict) -> Detections:
  """The detections of one image."""
  num_classes = scores.shape[-1]
  scores = jnp.where(valid[:, None] & (scores > config.score_threshold), scores, -1.0).reshape(-1)
  # Greedy NMS keeps best first, so a prefix of the candidates gives the same
  # result unless fewer than `detections` of them survive.
  top, index = top_k(scores, min(config.candidates, scores.shape[0]))
  roi, label = index // num_classes, index % num_classes
  keep, keep_valid = nms(
    boxes[roi],
    top,
    top > 0,
    config.nms_threshold,
    config.detections,
    classes=label,
    is_sorted=True,
  )
  return Detections(
    boxes=jnp.where(keep_valid[:, None], boxes[roi[keep]], 0.0),
    scores=jnp.where(keep_valid, top[keep], 0.0),
    classes=label[keep],
    rois=roi[keep],
    valid=keep_valid,
  )
