"""The ten silhouettes of shapes_ovd, drawn once and cached.

Coordinates are in the unit square [-1, 1]², x to the right and y downwards.
A silhouette is a list of primitives painted in order; a primitive with fill 0
cuts a hole.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw

_SUPERSAMPLING = 4
# The canvas is wider than the unit square, so that turning a silhouette cuts off no corner.
_EXTENT = 1.45

Points = list[tuple[float, float]]


def _ellipse(cx: float, cy: float, rx: float, ry: float | None = None) -> Points:
  t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
  return list(zip(cx + rx * np.cos(t), cy + (rx if ry is None else ry) * np.sin(t)))


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
  return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _polar(radii: np.ndarray) -> Points:
  """A closed curve given by its radius at equal steps of the angle, starting upwards."""
  t = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) - np.pi / 2
  return list(zip(radii * np.cos(t), radii * np.sin(t)))


def _heart() -> Points:
  t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
  x = 16 * np.sin(t) ** 3
  y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
  return list(zip(x / 16, -y / 15))


_SILHOUETTES: dict[str, list[tuple[Points, int]]] = {
  "circle": [(_ellipse(0, 0, 1), 1)],
  "triangle": [([(0, -0.95), (1, 0.8), (-1, 0.8)], 1)],
  "star": [(_polar(np.tile([1.0, 0.4], 5)), 1)],
  "cross": [(_box(-0.3, -1, 0.3, 1), 1), (_box(-1, -0.3, 1, 0.3), 1)],
  "heart": [(_heart(), 1)],
  "arrow": [
    ([(-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)], 1)
  ],
  "crescent": [(_ellipse(0, 0, 1), 1), (_ellipse(0.5, 0, 0.82), 0)],
  "house": [
    ([(0, -1), (1, -0.1), (-1, -0.1)], 1),
    (_box(-0.75, -0.15, 0.75, 0.9), 1),
    (_box(-0.2, 0.25, 0.2, 0.95), 0),
  ],
  "fish": [
    (_ellipse(-0.25, 0, 0.75, 0.52), 1),
    ([(0.25, 0), (1, -0.6), (0.8, 0), (1, 0.6)], 1),
    (_ellipse(-0.6, -0.14, 0.11), 0),
  ],
  "hourglass": [([(-0.75, -1), (0.75, -1), (0.12, 0), (0.75, 1), (-0.75, 1), (-0.12, 0)], 1)],
}


@functools.cache
def silhouette(shape: str) -> Image.Image:
  """The silhouette as an 8-bit alpha mask [96, 96], not turned, with room to turn it."""
  side = 96 * _SUPERSAMPLING
  canvas = Image.new("L", (side, side), 0)
  draw = ImageDraw.Draw(canvas)
  for points, fill in _SILHOUETTES[shape]:
    scaled = [((x / _EXTENT + 1) * side / 2, (y / _EXTENT + 1) * side / 2) for x, y in points]
    draw.polygon(scaled, fill=255 * fill)
  return canvas.reduce(_SUPERSAMPLING)
