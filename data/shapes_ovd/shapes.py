"""The 20 silhouettes of shapes_ovd, drawn once and cached.

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


def _ellipse(cx: float, cy: float, rx: float, ry: float | None = None, turn: float = 0.0) -> Points:
  t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
  x, y = rx * np.cos(t), (rx if ry is None else ry) * np.sin(t)
  c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
  return list(zip(cx + c * x - s * y, cy + s * x + c * y))


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


def _drop() -> Points:
  t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
  return list(zip(0.95 * np.sin(t) * np.sin(t / 2) ** 1.6, -np.cos(t)))


def _petals() -> Points:
  t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
  return _polar(0.66 + 0.34 * np.cos(5 * t))


_SILHOUETTES: dict[str, list[tuple[Points, int]]] = {
  "circle": [(_ellipse(0, 0, 1), 1)],
  "square": [(_box(-0.9, -0.9, 0.9, 0.9), 1)],
  "triangle": [([(0, -0.95), (1, 0.8), (-1, 0.8)], 1)],
  "star": [(_polar(np.tile([1.0, 0.4], 5)), 1)],
  "cross": [(_box(-0.3, -1, 0.3, 1), 1), (_box(-1, -0.3, 1, 0.3), 1)],
  "ring": [(_ellipse(0, 0, 1), 1), (_ellipse(0, 0, 0.52), 0)],
  "heart": [(_heart(), 1)],
  "arrow": [
    ([(-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)], 1)
  ],
  "crescent": [(_ellipse(0, 0, 1), 1), (_ellipse(0.5, 0, 0.82), 0)],
  "flower": [(_petals(), 1), (_ellipse(0, 0, 0.2), 0)],
  "bolt": [
    ([(0.25, -1), (-0.65, 0.2), (-0.08, 0.2), (-0.35, 1), (0.65, -0.3), (0.08, -0.3), (0.6, -1)], 1)
  ],
  "mushroom": [
    ([(x, min(y, 0.05)) for x, y in _ellipse(0, 0, 1, 0.95)], 1),
    (_box(-0.3, 0, 0.3, 0.95), 1),
  ],
  "butterfly": [
    (_ellipse(-0.52, -0.42, 0.6, 0.44, 40), 1),
    (_ellipse(0.52, -0.42, 0.6, 0.44, -40), 1),
    (_ellipse(-0.42, 0.46, 0.46, 0.32, -45), 1),
    (_ellipse(0.42, 0.46, 0.46, 0.32, 45), 1),
    (_ellipse(0, 0, 0.2, 0.7), 1),
  ],
  "house": [
    ([(0, -1), (1, -0.1), (-1, -0.1)], 1),
    (_box(-0.75, -0.15, 0.75, 0.9), 1),
    (_box(-0.2, 0.25, 0.2, 0.95), 0),
  ],
  "mug": [
    (_ellipse(0.5, 0, 0.52), 1),
    (_ellipse(0.5, 0, 0.28), 0),
    (_box(-0.95, -0.85, 0.4, 0.85), 1),
  ],
  "key": [
    (_ellipse(-0.55, 0, 0.5), 1),
    (_ellipse(-0.55, 0, 0.22), 0),
    (_box(-0.1, -0.15, 1, 0.15), 1),
    (_box(0.35, 0.1, 0.58, 0.5), 1),
    (_box(0.77, 0.1, 1, 0.5), 1),
  ],
  "fish": [
    (_ellipse(-0.25, 0, 0.75, 0.52), 1),
    ([(0.25, 0), (1, -0.6), (0.8, 0), (1, 0.6)], 1),
    (_ellipse(-0.6, -0.14, 0.11), 0),
  ],
  "tree": [
    ([(0, -1), (0.55, -0.3), (-0.55, -0.3)], 1),
    ([(0, -0.7), (0.75, 0.15), (-0.75, 0.15)], 1),
    ([(0, -0.35), (0.95, 0.6), (-0.95, 0.6)], 1),
    (_box(-0.18, 0.55, 0.18, 1), 1),
  ],
  "drop": [(_drop(), 1)],
  "hourglass": [
    ([(-0.75, -1), (0.75, -1), (0.12, 0), (0.75, 1), (-0.75, 1), (-0.12, 0)], 1),
  ],
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
