"""The feature levels of a batch: which cells hold image, where they lie, how they are encoded.

Three rectangles share the upper left corner of the canvas.  The image ends at `sizes`.  The network
ends at `extents`: the original pads the images of a batch to a common size with zeros, lets the
backbone compute there, and masks it in the transformer; for a single image the two are equal.  The
canvas, whose size is static, may be larger still, and what lies beyond `extents` changes nothing.
All are (height, width) in pixels of the network's input.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.ops.padding import Extents
from rkd_jax.structures import Arr

STRIDES = (8, 16, 32, 64)
Shapes = Sequence[tuple[int, int]]


class Pyramid(NamedTuple):
  """Geometry of the levels; l levels with s cells in all, level by level, row-major.

  Attributes:
    shapes: static (height, width) of each level on the canvas.
    extents: (height, width) of each level where the network ends.
    valid_sizes: (height, width) of the part that holds image.
    valid: the cells that do.
  """

  shapes: Shapes
  extents: Int[Array, "b l 2"]
  valid_sizes: Int[Array, "b l 2"]
  valid: Bool[Array, "b s"]

  @property
  def valid_ratios(self) -> Float[Array, "b l 2"]:
    """The part of each level's width and height that holds image."""
    return (self.valid_sizes / self.extents).astype(jnp.float32)[..., ::-1]

  @property
  def cells(self) -> Float[Array, "b s l 2"]:
    """Centre of every cell as a fraction (x, y) of every level."""
    centres = []
    for level, (rows, columns) in enumerate(self.shapes):
      size = self.valid_ratios[:, level] * self.extents[:, level, ::-1]
      x, y = jnp.meshgrid(jnp.arange(columns) + 0.5, jnp.arange(rows) + 0.5)
      centres.append(jnp.stack([x.ravel(), y.ravel()], -1) / size[:, None])
    # A cell means the same place of the image in all levels.
    return jnp.concatenate(centres, 1)[:, :, None] * self.valid_ratios[:, None]


def make_pyramid(canvas: tuple[int, int], extents: Extents, sizes: Extents) -> Pyramid:
  """Levels of strides 8 to 64; a cell holds image if the nearest pixel of the mask does.

  `extents` and `sizes` are (height, width) per image, within the static `canvas`.
  """
  shapes = tuple(tuple(-(-side // stride) for side in canvas) for stride in STRIDES)
  extents, sizes = jnp.asarray(extents), jnp.asarray(sizes)
  level_extents = jnp.stack([-(-extents // stride) for stride in STRIDES], axis=1)
  # Nearest-neighbour resizing as torch does it, in float32: cell i looks at pixel floor(i * scale).
  scale = extents[:, None].astype(jnp.float32) / level_extents.astype(jnp.float32)
  index = jnp.arange(max(max(shape) for shape in shapes))
  pixel = jnp.floor(index * scale[..., None]).astype(jnp.int32)
  inside = (pixel < sizes[:, None, :, None]) & (index < level_extents[..., None])
  valid = [
    (inside[:, level, 0, :rows, None] & inside[:, level, 1, None, :columns]).reshape(
      -1, rows * columns
    )
    for level, (rows, columns) in enumerate(shapes)
  ]
  return Pyramid(shapes, level_extents, inside.sum(-1), jnp.concatenate(valid, 1))


def sine_positions(
  shape: tuple[int, int], valid_size: Int[Arr, "b 2"], channels: int
) -> Float[Array, "b s c"]:
  """Sines of the row, then of the column, of each cell of a level (arXiv 1706.03762, section 3.5).

  Rows and columns are counted from 1 and scaled so that the last valid one is 2 pi; a cell in a
  column without image has row 0, and the other way round.  The frequencies fall from 1 to 1/10000;
  sines and cosines alternate.
  """
  valid_size = jnp.asarray(valid_size)
  half = channels // 2
  frequency = 10000.0 ** (-2.0 * (jnp.arange(half) // 2) / half)
  counts = [
    jnp.minimum(jnp.arange(n) + 1, valid_size[:, axis, None]) for axis, n in enumerate(shape)
  ]
  inside = [jnp.arange(n) < valid_size[:, axis, None] for axis, n in enumerate(shape)]
  rows = jnp.where(inside[1][:, None, :], counts[0][:, :, None], 0)
  columns = jnp.where(inside[0][:, :, None], counts[1][:, None, :], 0)
  encoded = []
  for axis, count in enumerate((rows, columns)):
    angle = count / (valid_size[:, axis, None, None] + 1e-6) * (2 * math.pi)
    angle = angle[..., None] * frequency
    encoded.append(jnp.where(jnp.arange(half) % 2 == 0, jnp.sin(angle), jnp.cos(angle)))
  return jnp.concatenate(encoded, -1).reshape(len(valid_size), -1, channels)
