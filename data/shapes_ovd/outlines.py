"""Outlines that silhouettes are made of.

Coordinates are in the unit square [-1, 1]², x to the right and y downwards.
"""

import numpy as np

Points = list[tuple[float, float]]


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None) -> Points:
  t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
  return list(zip(cx + rx * np.cos(t), cy + (rx if ry is None else ry) * np.sin(t)))


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
  return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def polar(radii: np.ndarray) -> Points:
  """A closed curve given by its radius at equal steps of the angle, starting upwards."""
  t = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) - np.pi / 2
  return list(zip(radii * np.cos(t), radii * np.sin(t)))


def mirrored(*primitives: tuple[Points, int]) -> list[tuple[Points, int]]:
  """Primitives, each with its picture in the vertical axis."""
  return [
    own
    for points, fill in primitives
    for own in ((points, fill), ([(-x, y) for x, y in points], fill))
  ]
