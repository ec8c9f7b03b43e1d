"""Box overlaps, non-maximum suppression and unit vectors on the host: NumPy, no jax.

Boxes are XYXY pixels; results have the precision of the arguments.
"""

import numpy as np
from jaxtyping import Float, Int


def suppress(
  overlaps: Float[np.ndarray, "k k"], scores: Float[np.ndarray, "k"], threshold: float
) -> Int[np.ndarray, "n"]:
  """Greedy non-maximum suppression; indices of what stays, best first.

  A box stays if its overlap with each better one that stays is at most the threshold.  Of equal
  scores the first counts as better.
  """
  alive = np.ones(len(scores), bool)
  kept = []
  for i in np.argsort(-scores, kind="stable"):
    if alive[i]:
      kept.append(i)
      alive &= overlaps[i] <= threshold
  return np.array(kept, np.int64)


def iou(
  boxes: Float[np.ndarray, "m 4"], others: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "m n"]:
  """Intersection over union; 0 where both are empty."""
  intersection = _intersection(boxes, others)
  return _ratio(intersection, _area(boxes)[:, None] + _area(others) - intersection)


def covered(
  boxes: Float[np.ndarray, "m 4"], others: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "m n"]:
  """Part of each of `boxes` that lies in each of the others; 0 of an empty one."""
  return _ratio(_intersection(boxes, others), _area(boxes)[:, None])


def unit(x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
  """x / |x| along the last axis; what is shorter than 1e-12 stays shorter than 1."""
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _intersection(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
  top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
  bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
  return np.prod(np.maximum(bottom_right - top_left, 0), axis=-1)


def _area(boxes: np.ndarray) -> np.ndarray:
  return np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  return part / np.maximum(whole, np.finfo(np.float32).tiny)
