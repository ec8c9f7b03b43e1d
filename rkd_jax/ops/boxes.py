"""Box arithmetic.  Boxes are XYXY in absolute pixels, float32.

`encode` and `decode` are the parametrisation of R-CNN (Girshick et al. 2014, appendix C), with
the clamp of detectron2's `Box2BoxTransform`.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.structures import Arr

# The largest growth `decode` allows: a box may become 1000/16 times as wide as its reference.
MAX_LOG_SCALE = math.log(1000.0 / 16)

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def take(boxes: Float[Arr, "n 4"], index: Int[Arr, "k"]) -> Float[Array, "k 4"]:
  """`boxes[index]`, for few of very many boxes or deltas.

  Read from one row, as their gradient is written: a TPU would pad an array [n, 4] to [n, 128].
  """
  return jnp.asarray(boxes).reshape(-1)[4 * index[:, None] + jnp.arange(4)]


def area(boxes: Float[Arr, "*n 4"]) -> Float[Arr, "*n"]:
  """Areas in square pixels; negative for a box with exactly one reversed side."""
  return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(a: Float[Arr, "m 4"], b: Float[Arr, "n 4"]) -> Float[Array, "m n"]:
  """Intersection over union of every box of `a` with every box of `b`; 0 where they do not meet."""
  low = jnp.maximum(a[:, None, :2], b[None, :, :2])
  high = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
  sides = jnp.maximum(high - low, 0.0)
  intersection = sides[..., 0] * sides[..., 1]
  union = area(a)[:, None] + area(b)[None, :] - intersection
  meet = intersection > 0
  return jnp.where(meet, intersection / jnp.where(meet, union, 1.0), 0.0)


def clip(
  boxes: Float[Arr, "*n 4"], size_hw: Int[Arr, "2"] | tuple[int, int]
) -> Float[Array, "*n 4"]:
  """Clips boxes to an image of `size_hw` = (height, width)."""
  height, width = size_hw[0], size_hw[1]
  limit = jnp.stack([width, height, width, height]).astype(boxes.dtype)
  return jnp.clip(boxes, 0.0, limit)


def is_nonempty(boxes: Float[Arr, "*n 4"]) -> Bool[Arr, "*n"]:
  """Whether width and height are both strictly positive."""
  return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def _center_size(boxes):
  size = boxes[..., 2:] - boxes[..., :2]
  return boxes[..., :2] + 0.5 * size, size


def encode(
  boxes: Float[Arr, "*n 4"], reference: Float[Arr, "*n 4"], weights: Sequence[float | int]
) -> Float[Array, "*n 4"]:
  """Deltas (dx, dy, dw, dh), times `weights`, that move `reference` onto `boxes`.

  A side that is not positive (padding rows) counts as one pixel, so the result is always finite.
  """
  center, size = _center_size(boxes)
  origin, scale = _center_size(reference)
  size = jnp.where(size > 0, size, 1.0)
  scale = jnp.where(scale > 0, scale, 1.0)
  deltas = jnp.concatenate([(center - origin) / scale, jnp.log(size / scale)], axis=-1)
  return deltas * jnp.asarray(weights, deltas.dtype)


def decode(
  deltas: Float[Arr, "*n 4"], reference: Float[Arr, "*n 4"], weights: Sequence[float | int]
) -> Float[Array, "*n 4"]:
  """Moves `reference` by `deltas`; the inverse of `encode`.

  dw and dh are clamped from above at `MAX_LOG_SCALE`, not from below.
  """
  deltas = deltas / jnp.asarray(weights, deltas.dtype)
  origin, scale = _center_size(reference)
  center = origin + deltas[..., :2] * scale
  half = 0.5 * scale * jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE))
  return jnp.concatenate([center - half, center + half], axis=-1)


def assign_levels(
  boxes: Float[Arr, "n 4"], min_level: int = 2, max_level: int = 5
) -> Int[Array, "n"]:
  """Index into the levels `min_level..max_level` for each box; 0 is `min_level`.

  A box of the area of 224 x 224 pixels belongs to level 4; each doubling of the side goes one level
  up.  Boxes of no area belong to `min_level`.
  """
  side = jnp.sqrt(jnp.maximum(area(boxes), 0.0))
  level = jnp.floor(4 + jnp.log2(side / 224 + 1e-8))
  return jnp.clip(level, min_level, max_level).astype(jnp.int32) - min_level
