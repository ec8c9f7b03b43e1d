"""Polygons in arrays of fixed size, and with fewer corners."""

import jax
import numpy as np
import pytest

from rkd_jax.ops.masks import rasterize
from rkd_jax.ops.polygons import pack_polygons, simplify_polygons


def test_polygons_are_packed_in_order_with_their_owners():
  vertices, owners = pack_polygons([[0, 0, 2, 0, 2, 2], [5, 5, 6, 5, 6, 7]], 8)
  assert vertices[:6].tolist() == [[0, 0], [2, 0], [2, 2], [5, 5], [6, 5], [6, 7]]
  assert owners.tolist() == [0, 0, 0, 1, 1, 1, -1, -1] and not vertices[6:].any()


@pytest.mark.parametrize(
  ("polygons", "message"),
  [
    ([[0, 0, 1]], "polygon 0 has shape"),
    ([[0, 0, 1, 1], [0, np.nan, 1, 1]], "polygon 1"),
    ([[0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 1, 1]], "6 vertices in 2 polygons, but room for 4"),
  ],
)
def test_pack_polygons_refuses(polygons, message):
  with pytest.raises(ValueError, match=message):
    pack_polygons(polygons, 4)


def test_polygons_that_fit_are_not_simplified():
  polygons = [np.array([[0.0, 0], [9, 0], [9, 9]]), np.array([[1.0, 1], [2, 1], [2, 2], [1, 2]])]
  for same, polygon in zip(simplify_polygons(polygons, 7), polygons, strict=True):
    np.testing.assert_array_equal(same, polygon)


def test_the_flattest_corners_go_first():
  """A square whose sides have a bump each: of 0.1, 0.3, 0.2 and 0.4 pixels."""
  square = [[0, 0], [5, -0.1], [10, 0], [10.3, 5], [10, 10], [5, 10.2], [0, 10], [-0.4, 5]]
  polygon = np.array(square)
  (seven,), (six,), (four,) = (simplify_polygons([polygon], n) for n in (7, 6, 4))
  assert seven.tolist() == np.delete(polygon, 1, axis=0).tolist()
  assert six.tolist() == np.delete(polygon, [1, 5], axis=0).tolist()
  assert four.tolist() == polygon[::2].tolist()


def test_small_polygons_go_where_triangles_do_not_fit():
  large, small = np.array([[0.0, 0], [9, 0], [9, 9], [0, 9]]), np.array([[1.0, 1], [2, 1], [2, 2]])
  middle = small * 3
  kept = simplify_polygons([small, large, middle], 8)
  assert [len(polygon) for polygon in kept] == [4, 3]
  np.testing.assert_array_equal(kept[1], middle)


def test_a_simplified_outline_covers_nearly_the_same_pixels():
  angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
  radius = 100 + 10 * np.sin(5 * angles)
  outline = 150 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
  box = np.array([30, 30, 270, 270], np.float32)
  rasterize_once = jax.jit(rasterize)
  full, coarse = (
    np.asarray(rasterize_once(*pack_polygons([p.ravel() for p in polygons], 400), box))
    for polygons in ([outline], simplify_polygons([outline], 48))
  )
  assert full.sum() > 300 and (full != coarse).sum() <= 4
