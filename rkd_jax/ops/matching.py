"""Assigns ground truth to anchors or proposals, as detectron2's `Matcher`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

from rkd_jax.structures import Arr


def match(
  iou: Float[Arr, "g n"] | Callable[[Int[Array, ""]], Float[Array, "n"]],
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
    iou: of each ground truth with each candidate; or a function that computes a row of it, so that
      300 boxes x 200,000 anchors need not be in memory.
    gt_valid: False for padding rows, which influence nothing.
    low, high: thresholds of the IoU.
    allow_low_quality: whether each ground truth claims its best candidates (RPN).

  Returns:
    The matched row (the first of equals; 0 without valid ground truth) and the label.
  """
  if low > high:
    raise ValueError(f"match: low={low} exceeds high={high}; give low <= high.")
  rows = gt_valid.shape[0]
  if not callable(iou):
    # One row more: without ground truth none is read, but the loop is compiled.
    iou = jnp.pad(jnp.asarray(iou), ((0, 1), (0, 0))).__getitem__
  valid = jnp.pad(gt_valid, (0, 1))
  n = jax.eval_shape(iou, jnp.zeros((), jnp.int32)).shape[0]

  def add(i, state):
    best, gt_index, claimed = state
    # The comparison for equality must read the same bits as the maximum, which XLA does not promise
    # if it fuses the computation of the row into each of them.
    row = jax.lax.optimization_barrier(jnp.where(valid[i], iou(i), -1.0))
    # The first of equals stays.
    gt_index = jnp.where(row > best, i, gt_index)
    claimed |= (row == jnp.max(row)) & valid[i]
    return jnp.maximum(best, row), gt_index, claimed

  start = jnp.full(n, -1.0), jnp.zeros(n, jnp.int32), jnp.zeros(n, bool)
  end = jnp.max(jnp.where(gt_valid, jnp.arange(1, rows + 1), 0), initial=0)
  best, gt_index, claimed = jax.lax.fori_loop(0, end, add, start)
  label = jnp.where(best >= high, 1, jnp.where(best < low, 0, -1))
  if allow_low_quality:
    label = jnp.where(claimed, 1, label)
  return gt_index, label.astype(jnp.int8)
