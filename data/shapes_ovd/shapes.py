"""The silhouettes of shapes_ovd, drawn once and cached.

Coordinates are in the unit square [-1, 1]², x to the right and y downwards.
A silhouette is a list of primitives painted in order; a primitive with fill 0
cuts a hole.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw

from rkd_jax.data.shapes_ovd import distractors
from rkd_jax.data.shapes_ovd.outlines import Points, box, ellipse, polar

_SUPERSAMPLING = 4
# The canvas is wider than the unit square, so that turning a silhouette cuts off no corner.
_EXTENT = 1.45


def _heart() -> Points:
  t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
  x = 16 * np.sin(t) ** 3
  y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
  return list(zip(x / 16, -y / 15))


_SILHOUETTES: dict[str, list[tuple[Points, int]]] = {
  "circle": [(ellipse(0, 0, 1), 1)],
  "triangle": [([(0, -0.95), (1, 0.8), (-1, 0.8)], 1)],
  "star": [(polar(np.tile([1.0, 0.4], 5)), 1)],
  "cross": [(box(-0.3, -1, 0.3, 1), 1), (box(-1, -0.3, 1, 0.3), 1)],
  "heart": [(_heart(), 1)],
  "arrow": [
    ([(-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)], 1)
  ],
  "crescent": [(ellipse(0, 0, 1), 1), (ellipse(0.5, 0, 0.82), 0)],
  "house": [
    ([(0, -1), (1, -0.1), (-1, -0.1)], 1),
    (box(-0.75, -0.15, 0.75, 0.9), 1),
    (box(-0.2, 0.25, 0.2, 0.95), 0),
  ],
  "fish": [
    (ellipse(-0.25, 0, 0.75, 0.52), 1),
    ([(0.25, 0), (1, -0.6), (0.8, 0), (1, 0.6)], 1),
    (ellipse(-0.6, -0.14, 0.11), 0),
  ],
  "hourglass": [([(-0.75, -1), (0.75, -1), (0.12, 0), (0.75, 1), (-0.75, 1), (-0.12, 0)], 1)],
}


@functools.cache
def silhouette(shape: str) -> Image.Image:
  """The silhouette as an 8-bit alpha mask [96, 96], not turned, with room to turn it."""
  side = 96 * _SUPERSAMPLING
  canvas = Image.new("L", (side, side), 0)
  draw = ImageDraw.Draw(canvas)
  for points, fill in (distractors.SILHOUETTES | _SILHOUETTES)[shape]:
    scaled = [((x / _EXTENT + 1) * side / 2, (y / _EXTENT + 1) * side / 2) for x, y in points]
    draw.polygon(scaled, fill=255 * fill)
  return canvas.reduce(_SUPERSAMPLING)
