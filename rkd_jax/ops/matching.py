"""Assigns ground truth to anchors or proposals, as detectron2's `Matcher`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

from rkd_jax.structures import Arr


def match(
  iou: Float[Arr, "g n"],
  gt_valid: Bool[Arr, "g"],
  low: float | int,
  high: float | int,
  allow_low_quality: bool,
) -> tuple[Int[Array, "n"], Int8[Array, "n"]]:
  """Matches every candidate to the valid ground truth it overlaps most.

  The label is 1 (foreground) where the best IoU is at least `high`, 0 (background) where it is
  below `low`, and -1 (ignored) in between; `low == high` leaves nothing ignored.  With
  `allow_low_quality` every candidate that reaches the best IoU of some ground truth is foreground
  too, whatever that IoU is - even 0, so that a valid ground truth that meets no candidate makes
  all of them foreground, as in the reference.  Such a candidate keeps its own best match.

  Args:
    iou: IoU of each ground truth with each candidate.
    gt_valid: False for padding rows, which influence nothing.
    low: IoU below which a candidate is background.
    high: IoU from which on a candidate is foreground.
    allow_low_quality: whether each ground truth claims its best candidates (RPN).

  Returns:
    The matched row (the first of equals; 0 without valid ground truth) and the label.
  """
  if low > high:
    raise ValueError(f"match: low={low} exceeds high={high}; give low <= high.")
  if iou.shape[0] == 0:
    return jnp.zeros(iou.shape[1], jnp.int32), jnp.zeros(iou.shape[1], jnp.int8)
  # The comparison with the row maximum below is for equality: both sides must read the same bits,
  # which XLA does not promise if it fuses the computation of `iou` into each of them.
  iou = jax.lax.optimization_barrier(jnp.where(gt_valid[:, None], iou, -1.0))
  best = jnp.max(iou, axis=0)
  # The first row that reaches it, as two plain reductions: XLA's argmax is slow on a CPU.
  rows = jnp.arange(iou.shape[0], dtype=jnp.int32)[:, None]
  gt_index = jnp.min(jnp.where(iou == best, rows, iou.shape[0] - 1), axis=0)
  label = jnp.where(best >= high, 1, jnp.where(best < low, 0, -1))
  if allow_low_quality:
    claimed = (iou == jnp.max(iou, axis=1, keepdims=True)) & gt_valid[:, None]
    label = jnp.where(jnp.any(claimed, axis=0), 1, label)
  return gt_index, label.astype(jnp.int8)
