"""Anchor boxes.  Static NumPy: they depend on the shape of the feature map alone.

Matches detectron2's `DefaultAnchorGenerator` with offset 0: the anchors of cell (y, x) are
centred at (x * stride, y * stride), not at the middle of the cell.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def cell_anchors(
  sizes: Sequence[float | int], ratios: Sequence[float | int]
) -> Float[np.ndarray, "a 4"]:
  """Anchors of one cell around the origin, all ratios of the first size first.

  A size is the square root of the area in pixels; a ratio is height / width.
  """
  side = np.asarray(sizes, np.float64)[:, None]
  ratio = np.asarray(ratios, np.float64)[None, :]
  width = np.sqrt(side**2 / ratio)
  height = width * ratio
  corners = np.stack([-width, -height, width, height], axis=-1) / 2
  return corners.reshape(-1, 4).astype(np.float32)


def grid_anchors(
  height: int, width: int, stride: int, sizes: Sequence[float | int], ratios: Sequence[float | int]
) -> Float[np.ndarray, "n 4"]:
  """Anchors of a feature map of `height` x `width` cells; n = height * width * A.

  Row-major over (y, x), the A anchors of a cell fastest.
  """
  y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
  shifts = (np.stack([x, y, x, y], axis=-1) * stride).astype(np.float32)
  return (shifts[:, :, None] + cell_anchors(sizes, ratios)).reshape(-1, 4)
