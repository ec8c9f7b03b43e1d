"""RPN losses: objectness and box regression on sampled anchors."""

import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Float, Key

from rkd_jax.machine.target import over_images
from rkd_jax.ops import boxes as boxes_lib
from rkd_jax.ops import matching, sampling
from rkd_jax.structures import GroundTruth, Regions, RpnOutputs


def rpn_losses(
  outputs: RpnOutputs,
  ground_truth: GroundTruth,
  keys: Key[Array, "b"] | None,
  config: ml_collections.ConfigDict,
  regions: Regions | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """(objectness BCE, box L1), both sums over sampled anchors / (batch size * images).

  The normaliser is the nominal number of samples, not the number drawn.  Anchors that are not valid
  are neither matched nor sampled; pseudo labels are no ground truth here.  `keys` holds one key per
  image; None samples in index order.
  `config` is `config.loss.rpn`.

  With `config.teacher_boxes.below` those of `regions` are foreground, too, that have a lower IoU
  with every annotated box: objects that nobody annotated, most of them.  They get the anchors of at
  least the IoU `high`, and their best ones of at least `low`; anchors from `low` on are no
  background.  Annotated boxes keep the anchors that they have.  Boxes are regressed to them with
  `config.teacher_boxes.regression`.

  Raises:
    ValueError: teacher boxes are asked for, and there are no regions.
  """
  teacher, boxes = config.get("teacher_boxes", ml_collections.ConfigDict()), None
  below = teacher.get("below", 0.0)
  if below and regions is None:
    raise ValueError(
      f"loss.rpn.teacher_boxes.below is {below}, but box batches have no regions: set "
      "data.box.max_regions and data.teachers, or loss.rpn.teacher_boxes.below=0."
    )
  if below:
    boxes = regions.boxes, regions.valid

  def one_image(logits, deltas, anchor_valid, gt_boxes, gt_valid, key, teacher_boxes):
    def assign(boxes, valid, lowest=0.0):
      def iou(i):
        row = boxes_lib.pairwise_iou(boxes[i][None], outputs.anchors)[0]
        return jnp.where(anchor_valid, row, 0.0)

      low, high = config.low, config.high
      return matching.match(iou, valid, low, high, allow_low_quality=True, lowest=lowest)

    gt_index, label = assign(gt_boxes, gt_valid)
    annotated = len(gt_boxes)
    if teacher_boxes is not None:
      own, valid = teacher_boxes
      overlaps = jnp.where(gt_valid[None], boxes_lib.pairwise_iou(own, gt_boxes), 0.0)
      valid &= jnp.max(overlaps, axis=1, initial=0.0) < below
      index, own_label = assign(own, valid, lowest=config.low)
      gt_index = jnp.where(label == 1, gt_index, annotated + index)
      # Background is what is background to both.
      other = jnp.where(own_label == 1, own_label, jnp.minimum(label, own_label))
      label = jnp.where(label == 1, label, other)
      gt_boxes = jnp.concatenate([gt_boxes, own])
    label = jnp.where(anchor_valid, label, -1)
    # All that follows is of the few anchors drawn.
    index, positive, drawn = sampling.sample_foreground_background(
      key, label, config.batch_size_per_image, config.positive_fraction
    )
    bce = optax.sigmoid_binary_cross_entropy(logits[index], positive.astype(jnp.float32))
    objectness = jnp.sum(jnp.where(drawn, bce, 0.0))
    anchors = boxes_lib.take(outputs.anchors, index)
    # Background gets its own box as target: finite, and masked out below.
    matched = jnp.where(positive[:, None], gt_boxes[gt_index[index]], anchors)
    target = boxes_lib.encode(matched, anchors, boxes_lib.RPN_WEIGHTS)
    distance = jnp.abs(boxes_lib.take(deltas, index) - target)
    if teacher_boxes is not None and not teacher.regression:
      positive &= gt_index[index] < annotated
    regression = jnp.sum(jnp.where(positive[:, None], distance, 0.0))
    return objectness, regression

  out, truth = outputs, ground_truth
  annotated = truth.valid if truth.pseudo is None else truth.valid & ~truth.pseudo
  objectness, regression = over_images(
    one_image, out.logits, out.deltas, out.valid, truth.boxes, annotated, keys, boxes
  )
  normalizer = config.batch_size_per_image * outputs.logits.shape[0]
  return jnp.sum(objectness) / normalizer, jnp.sum(regression) / normalizer
