"""Losses of the RoI head: zero-shot classification and box regression."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.ops import boxes as boxes_lib


def classification(
  logits: Float[Array, "n c1"],
  classes: Int[Array, "n"],
  valid: Bool[Array, "n"],
  class_mask: Bool[Array, "c"] | Bool[Array, "n c"] | None,
  kind: str = "sigmoid",
  weights: Float[Array, "n"] | None = None,
) -> Float[Array, ""]:
  """Classification loss over the RoIs of a group of images.

  `sigmoid` (published code): binary cross-entropy on the C class columns, the background column
  dropped, columns outside `class_mask` (classes without training images; of all RoIs or of each)
  weighted 0 even as negatives, summed and divided by the number of RoIs.  `softmax` (paper):
  cross-entropy over C + 1 columns.  `weights` of RoIs leave their number as it is.
  """
  count = jnp.maximum(jnp.sum(valid), 1)
  num_classes = logits.shape[-1] - 1
  if kind == "softmax":
    per_roi = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
  elif kind == "sigmoid":
    target = jax.nn.one_hot(classes, num_classes)  # background: a row of zeros
    per_column = optax.sigmoid_binary_cross_entropy(logits[:, :num_classes], target)
    if class_mask is not None:
      per_column = jnp.where(class_mask, per_column, 0.0)
    per_roi = jnp.sum(per_column, axis=-1)
  else:
    raise ValueError(f"loss.classification is {kind!r}; expected 'sigmoid' or 'softmax'.")
  if weights is not None:
    per_roi = weights * per_roi
  return jnp.sum(jnp.where(valid, per_roi, 0.0)) / count


def agreement_weights(
  logits: Float[Array, "n c1"],
  pseudo: Bool[Array, "n"],
  scores: Float[Array, "n"],
  threshold: float,
  kind: str = "sigmoid",
) -> Float[Array, "n"]:
  """Weights of RoIs on pseudo labels by what the teacher and the detector, as it is, think of them.

  The teacher knows what something is, the detector whether it is an object: the weight is the sum
  of the pseudo label's `scores` and of the greatest probability of any class, and 0 where their
  mean is below the threshold.  Other RoIs have 1.  No gradient flows through it.

  Source: online mining and adaptive reweighting of MarvelOVD (arXiv 2407.21465), whose code has 1
  less the probability of background.
  """
  activation = jax.nn.softmax if kind == "softmax" else jax.nn.sigmoid
  probabilities = activation(jax.lax.stop_gradient(logits))[:, :-1]
  mean = (scores + jnp.max(probabilities, axis=-1)) / 2
  return jnp.where(pseudo, jnp.where(mean >= threshold, 2 * mean, 0.0), 1.0)


def box_regression(
  deltas: Float[Array, "n 4"],
  boxes: Float[Array, "n 4"],
  gt_boxes: Float[Array, "n 4"],
  foreground: Bool[Array, "n"],
  valid: Bool[Array, "n"],
) -> Float[Array, ""]:
  """L1 on the class-agnostic deltas of foreground RoIs / number of all RoIs."""
  foreground = foreground & valid
  # A unit box where there is no target keeps the logarithms finite.
  unit = jnp.array([0.0, 0.0, 1.0, 1.0])
  sources = jnp.where(foreground[:, None], boxes, unit)
  targets = jnp.where(foreground[:, None], gt_boxes, unit)
  target = boxes_lib.encode(targets, sources, boxes_lib.ROI_WEIGHTS)
  loss = jnp.sum(jnp.where(foreground[:, None], jnp.abs(deltas - target), 0.0))
  return loss / jnp.maximum(jnp.sum(valid), 1)
