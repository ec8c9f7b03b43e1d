"""Polygons of objects as arrays of fixed size, on the host, in NumPy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def pack_polygons(
  polygons: Sequence[Sequence[float | int] | np.ndarray], capacity: int
) -> tuple[Float[np.ndarray, "v 2"], Int[np.ndarray, "v"]]:
  """The polygons (x0, y0, x1, y1, ... as in COCO files) of one instance, padded to `capacity`.

  Returns:
    `vertices`, those of a polygon in consecutive rows, and `owners`, the index of the polygon
    that a vertex belongs to; -1 is padding.

  Raises:
    ValueError: for a polygon that is no list of pairs, or more vertices than `capacity`.
  """
  parts = []
  for i, polygon in enumerate(polygons):
    flat = np.asarray(polygon, np.float32)
    if flat.ndim != 1 or flat.size % 2 or not np.all(np.isfinite(flat)):
      raise ValueError(
        f"pack_polygons: polygon {i} has shape {flat.shape}; expected a flat list x0, y0, x1, "
        "y1, ... of finite numbers. Repair or drop the annotation."
      )
    parts.append(flat.reshape(-1, 2))
  count = sum(len(part) for part in parts)
  if count > capacity:
    raise ValueError(
      f"pack_polygons: {count} vertices in {len(parts)} polygons, but room for {capacity}; "
      "raise the capacity."
    )
  vertices = np.zeros((capacity, 2), np.float32)
  owners = np.full(capacity, -1, np.int32)
  if parts:
    vertices[:count] = np.concatenate(parts)
    owners[:count] = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
  return vertices, owners


def simplify_polygons(
  polygons: Sequence[Float[np.ndarray, "_ 2"]], capacity: int
) -> list[Float[np.ndarray, "_ 2"]]:
  """The polygons (XY) of one instance with at most `capacity` vertices, which is 3 or more.

  Polygons that fit stay as they are.  Otherwise the vertex that spans the smallest triangle with
  its neighbours goes, again and again (Visvalingam and Whyatt, 1993); a polygon keeps three, and
  where even those do not fit, the polygons of the smallest area go.
  """
  parts = [np.asarray(polygon).reshape(-1, 2) for polygon in polygons]
  excess = sum(map(len, parts)) - capacity
  if excess <= 0:
    return parts
  if len(parts) > capacity // 3:
    largest = sorted(range(len(parts)), key=lambda i: -_polygon_area(parts[i]))[: capacity // 3]
    parts = [parts[i] for i in sorted(largest)]
    excess = sum(map(len, parts)) - capacity
  triangles = [_triangles(part) for part in parts]
  for _ in range(excess):
    smallest = min(range(len(parts)), key=lambda i: triangles[i].min())
    parts[smallest] = np.delete(parts[smallest], triangles[smallest].argmin(), axis=0)
    triangles[smallest] = _triangles(parts[smallest])
  return parts


def _polygon_area(polygon):
  x, y = polygon.T
  return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _triangles(polygon):
  """Area of the triangle of each vertex and its neighbours; infinite if it must stay."""
  if len(polygon) <= 3:
    return np.full(len(polygon), np.inf)
  back = np.roll(polygon, 1, axis=0) - polygon
  ahead = np.roll(polygon, -1, axis=0) - polygon
  return np.abs(back[:, 0] * ahead[:, 1] - back[:, 1] * ahead[:, 0]) / 2
