"""Exact greedy non-maximum suppression with static shapes.

Greedy NMS walks the boxes from the best score down and keeps a box unless a kept one overlaps it
too much.  Here the boxes are sorted, S[i, j] says that i would suppress j (i before j), and
`keep = not any_i(S[i] and keep[i])` is iterated to its fixed point.  As S is strictly upper
triangular, after k rounds the first k entries are final, so the fixed point exists, is unique and
is the greedy result at any threshold; a few rounds suffice in practice.  Large inputs go tile by
tile: each tile is first suppressed by what earlier tiles kept, then within itself, and the walk
ends once enough boxes are kept.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.machine import target
from rkd_jax.ops import boxes as box_ops
from rkd_jax.structures import Arr

# Up to this many boxes one matrix is cheaper than a walk over tiles.
_MAX_SINGLE_TILE = 2048
_TILE = 1024


def nms(
  boxes: Float[Arr, "n 4"],
  scores: Float[Arr, "n"],
  valid: Bool[Arr, "n"],
  iou_threshold: float | int | Float[Arr, ""],
  max_outputs: int,
  classes: Int[Arr, "n"] | None = None,
  is_sorted: bool = False,
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
  """Keeps the best of overlapping boxes.

  Args:
    boxes: XYXY.
    scores: of equal ones that of the lower index is the better.
    valid: rows that take part; the others neither suppress nor are returned.
    iou_threshold: a box is suppressed by a kept one at an IoU strictly above this.
    max_outputs: k, the length of the result.
    classes: if given, boxes of different classes do not suppress each other.  Equality of
      classes is tested as such: shifting the boxes of each class apart would round.
    is_sorted: whether the scores of valid rows fall already; sorting is slow on a TPU.

  Returns:
    Indices of the kept boxes, best score first, padded with 0, and which of them are real.
  """
  n = boxes.shape[0]
  if n == 0 or max_outputs == 0:
    return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
  if is_sorted:
    order = jnp.arange(n, dtype=jnp.int32)
  else:
    scores = jnp.where(valid, scores, -jnp.inf)
    order = jnp.argsort(scores, descending=True, stable=True).astype(jnp.int32)
  boxes, valid = jnp.asarray(boxes)[order], jnp.asarray(valid)[order]
  classes = None if classes is None else jnp.asarray(classes)[order]
  if n <= _MAX_SINGLE_TILE:
    keep = _greedy(valid, _overlaps(boxes, boxes, classes, classes, iou_threshold))
    kept = jnp.nonzero(keep, size=max_outputs, fill_value=n)[0]
  else:
    kept = _tiled(boxes, valid, classes, iou_threshold, max_outputs)
  return order.at[kept].get(mode="fill", fill_value=0), kept < n


def _overlaps(a, b, classes_a, classes_b, iou_threshold):
  overlap = box_ops.pairwise_iou(a, b) > iou_threshold
  if classes_a is not None:
    overlap &= classes_a[:, None] == classes_b[None, :]
  return overlap


def _greedy(alive, overlap):
  """Greedy suppression among sorted boxes, of which only those `alive` take part."""
  suppresses = jnp.triu(overlap, 1)
  if target.current().platform == "tpu":
    # Exact, and a TPU multiplies sooner than it asks.
    suppresses = suppresses.astype(jnp.bfloat16)

  def suppressed(keep):
    if suppresses.dtype == bool:
      return jnp.any(suppresses & keep[:, None], axis=0)
    keep = keep.astype(suppresses.dtype)
    return jnp.dot(keep, suppresses, preferred_element_type=jnp.float32) > 0

  def refine(state):
    keep, _ = state
    return alive & ~suppressed(keep), keep

  def changed(state):
    return jnp.any(state[0] != state[1])

  return jax.lax.while_loop(changed, refine, refine((alive, alive)))[0]


def _tiled(boxes, valid, classes, iou_threshold, max_outputs):
  """Positions [max_outputs] of the kept among sorted boxes; n where there are no more."""
  n = boxes.shape[0]
  tiles = -(-n // _TILE)
  valid = jnp.pad(valid, (0, tiles * _TILE - n))

  def step(state):
    tile, kept, count = state
    position = tile * _TILE + jnp.arange(_TILE)
    # Positions past the end read some box but are not valid.
    box, cls = boxes[position], None if classes is None else classes[position]
    kept_box = boxes[kept]
    kept_cls = None if classes is None else classes[kept]
    earlier = _overlaps(kept_box, box, kept_cls, cls, iou_threshold) & (kept < n)[:, None]
    alive = valid[position] & ~jnp.any(earlier, axis=0)
    keep = _greedy(alive, _overlaps(box, box, cls, cls, iou_threshold))
    slot = jnp.where(keep, count + jnp.cumsum(keep) - 1, max_outputs)
    kept = kept.at[slot].set(position, mode="drop")
    return tile + 1, kept, count + jnp.sum(keep)

  def unfinished(state):
    tile, _, count = state
    return (tile < tiles) & (count < max_outputs)

  start = (jnp.int32(0), jnp.full(max_outputs, n, jnp.int32), jnp.int32(0))
  return jax.lax.while_loop(unfinished, step, start)[1]
