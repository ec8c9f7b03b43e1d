"""Assigns ground truth to anchors or proposals, as detectron2's `Matcher`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

from rkd_jax.structures import Arr

# Rows of ground truth that are looked at together: each pass reads and writes what is known of all
# candidates, and eight rows fill a TPU's registers.
_ROWS = 8


def match(
  iou: Float[Arr, "g n"] | Callable[[Int[Array, ""]], Float[Array, "n"]],
  gt_valid: Bool[Arr, "g"],
  low: float | int,
  high: float | int,
  allow_low_quality: bool,
  lowest: float | int = 0.0,
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
    lowest: IoU that a claimed candidate must have with who claims it; by default any, even 0.

  Returns:
    The matched row (the first of equals; 0 without valid ground truth) and the label.
  """
  if low > high:
    raise ValueError(f"match: low={low} exceeds high={high}; give low <= high.")
  rows = gt_valid.shape[0]
  if not callable(iou):
    # One row more: without ground truth none is read, but the loop is compiled.
    iou = jnp.pad(jnp.asarray(iou), ((0, 1), (0, 0))).__getitem__
  valid = jnp.pad(gt_valid, (0, _ROWS))
  n = jax.eval_shape(iou, jnp.zeros((), jnp.int32)).shape[0]

  def add(i, state):
    best, gt_index, claimed = state
    index = i * _ROWS + jnp.arange(_ROWS)
    counts = valid[index][:, None]
    overlaps = jax.vmap(iou)(jnp.minimum(index, max(rows - 1, 0)))
    # The comparison for equality must read the same bits as the maximum, which XLA does not promise
    # if it fuses the computation of a row into each of them.
    overlaps = jax.lax.optimization_barrier(jnp.where(counts, overlaps, -1.0))
    # The first of equals stays.
    top = jnp.max(overlaps, axis=0)
    gt_index = jnp.where(top > best, index[jnp.argmax(overlaps, axis=0)], gt_index)
    claims = (overlaps == jnp.max(overlaps, axis=1, keepdims=True)) & counts
    if lowest > 0:
      claims &= overlaps >= lowest
    return jnp.maximum(best, top), gt_index, claimed | jnp.any(claims, axis=0)

  start = jnp.full(n, -1.0), jnp.zeros(n, jnp.int32), jnp.zeros(n, bool)
  end = jnp.max(jnp.where(gt_valid, jnp.arange(rows) // _ROWS + 1, 0), initial=0)
  best, gt_index, claimed = jax.lax.fori_loop(0, end, add, start)
  label = jnp.where(best >= high, 1, jnp.where(best < low, 0, -1))
  if allow_low_quality:
    label = jnp.where(claimed, 1, label)
  return gt_index, label.astype(jnp.int8)
