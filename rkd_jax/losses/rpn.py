"""RPN losses: objectness and box regression on sampled anchors."""

import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Float, Key

from rkd_jax.machine.target import over_images
from rkd_jax.ops import boxes as boxes_lib
from rkd_jax.ops import matching, sampling
from rkd_jax.structures import GroundTruth, RpnOutputs


def rpn_losses(
  outputs: RpnOutputs,
  ground_truth: GroundTruth,
  keys: Key[Array, "b"] | None,
  config: ml_collections.ConfigDict,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """(objectness BCE, box L1), both sums over sampled anchors / (batch size * images).

  The normaliser is the nominal number of samples, not the number drawn.  Anchors that are not valid
  are neither matched nor sampled; pseudo labels are no ground truth here.  `keys` holds one key per
  image; None samples in index order.
  `config` is `config.loss.rpn`.
  """

  def one_image(logits, deltas, anchor_valid, gt_boxes, gt_valid, key):
    def iou(i):
      row = boxes_lib.pairwise_iou(gt_boxes[i][None], outputs.anchors)[0]
      return jnp.where(anchor_valid, row, 0.0)

    gt_index, label = matching.match(iou, gt_valid, config.low, config.high, allow_low_quality=True)
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
    regression = jnp.sum(jnp.where(positive[:, None], distance, 0.0))
    return objectness, regression

  out, truth = outputs, ground_truth
  annotated = truth.valid if truth.pseudo is None else truth.valid & ~truth.pseudo
  objectness, regression = over_images(
    one_image, out.logits, out.deltas, out.valid, truth.boxes, annotated, keys
  )
  normalizer = config.batch_size_per_image * outputs.logits.shape[0]
  return jnp.sum(objectness) / normalizer, jnp.sum(regression) / normalizer
