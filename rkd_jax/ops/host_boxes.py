"""Overlaps and non-maximum suppression of boxes on the host, in NumPy; boxes are XYXY pixels."""

import numpy as np
from jaxtyping import Float


def suppress(
  overlaps: Float[np.ndarray, "k k"], scores: Float[np.ndarray, "k"], threshold: float
) -> list[int]:
  """Greedy non-maximum suppression; indices of what stays, best first."""
  alive = np.ones(len(scores), bool)
  kept = []
  for i in np.argsort(-scores, kind="stable"):
    if alive[i]:
      kept.append(int(i))
      alive &= overlaps[i] <= threshold
  return kept


def iou(
  boxes: Float[np.ndarray, "m 4"], others: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "m n"]:
  """Intersection over union of XYXY boxes; 0 where both are empty."""
  top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
  bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
  intersection = np.prod(np.maximum(bottom_right - top_left, 0), axis=-1)
  areas, other_areas = (np.prod(b[:, 2:] - b[:, :2], axis=-1) for b in (boxes, others))
  union = areas[:, None] + other_areas - intersection
  return intersection / np.maximum(union, np.finfo(np.float32).tiny)


def pairwise_areas(
  a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]
) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"], Float[np.ndarray, "n 1"]]:
  """Areas, in double precision, of intersections and unions of XYXY boxes, and of `a` alone."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  corner_low = np.maximum(a[:, None, :2], b[None, :, :2])
  corner_high = np.minimum(a[:, None, 2:], b[None, :, 2:])
  intersection = np.clip(corner_high - corner_low, 0.0, None).prod(axis=-1)
  own, other = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (a, b))
  return intersection, own[:, None] + other[None, :] - intersection, own[:, None]


def _pairwise_iou(
  a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
  intersection, union, _ = pairwise_areas(a, b)
  return np.where(union > 0, intersection / np.where(union > 0, union, 1.0), 0.0)
