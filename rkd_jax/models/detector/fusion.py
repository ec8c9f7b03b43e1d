"""Scores of two classifiers made one at test time.

A detector that never saw boxes of a class knows where objects are, and CLIP knows what they are.
Their geometric mean s^(1 - a) p^a is that of ViLD (arXiv 2104.13921, ViLD-ensemble) and of F-VLM
(arXiv 2209.15639, equation 5), where the exponent a of novel classes may be another than that of
base classes.  Theirs is over all proposals; here the few crops that an image has room for speak for
the proposals they overlap.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.machine.target import over_images
from rkd_jax.ops import boxes as boxes_lib
from rkd_jax.ops.embeddings import l2_normalize
from rkd_jax.ops.nms import nms

# A crop is of a box that no better crop overlaps by more, and speaks for those it overlaps by more.
_IOU = 0.5


def geometric_mean(
  scores: Float[Array, "*n c"], others: Float[Array, "*n c"], exponents: Float[Array, "c"]
) -> Float[Array, "*n c"]:
  """scores^(1 - exponents) others^exponents, exactly the one or the other at 0 and at 1."""
  return scores ** (1 - exponents) * others**exponents


def cosines(
  embeddings: Float[Array, "*n e"], class_embeddings: Float[Array, "c e"]
) -> Float[Array, "*n c"]:
  """Cosines of embeddings with the classes'; 0 where either is zero."""
  text = l2_normalize(class_embeddings.astype(jnp.float32))
  return jnp.einsum("...e,ce->...c", l2_normalize(embeddings), text)


def crop_scores(
  embeddings: Float[Array, "*n e"],
  class_embeddings: Float[Array, "c e"],
  temperature: float,
  class_valid: Bool[Array, "c"] | None = None,
) -> Float[Array, "*n c"]:
  """Softmax over the classes of temperature times the cosine; 0 for classes not `class_valid`."""
  logits = temperature * cosines(embeddings, class_embeddings)
  if class_valid is not None:
    logits = jnp.where(class_valid, logits, -jnp.inf)
  return jax.nn.softmax(logits, axis=-1)


def choose_crops(
  boxes: Float[Array, "b p 4"],
  scores: Float[Array, "b p c"],
  valid: Bool[Array, "b p"],
  count: int,
) -> tuple[Int[Array, "b k"], Bool[Array, "b k"], Int[Array, "b p"]]:
  """The boxes that are to be cut out for CLIP, and the crop that speaks for each box.

  Taken are the `count` boxes with the best score for any class that do not overlap a better one.

  Returns:
    Indices of these, padded with 0; which of them are real; and for each box the crop that it
    overlaps most, by an IoU of 0.5 or more, or -1.
  """

  def one_image(boxes, scores, valid):
    full = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    index, real = nms(boxes, scores.max(-1), valid & full, _IOU, count)
    iou = jnp.where(real, boxes_lib.pairwise_iou(boxes, boxes[index]), 0.0)
    return index, real, jnp.where(iou.max(-1) >= _IOU, iou.argmax(-1), -1)

  return over_images(one_image, boxes, scores, valid)


def fuse_crops(
  scores: Float[Array, "b p c"],
  of_crops: Float[Array, "b k c"],
  crop_of: Int[Array, "b p"],
  exponents: Float[Array, "c"],
) -> Float[Array, "b p c"]:
  """Scores fused with those of the crop of each box; those of a box without a crop stay."""
  own = jnp.take_along_axis(of_crops, jnp.maximum(crop_of, 0)[..., None], axis=1)
  return jnp.where((crop_of >= 0)[..., None], geometric_mean(scores, own, exponents), scores)
