"""Silhouettes by what is known of their areas and symmetries."""

import numpy as np
import pytest

from rkd_jax.data.shapes_ovd import vocabulary
from rkd_jax.data.shapes_ovd.shapes import silhouette


@pytest.mark.parametrize("shape", vocabulary.SHAPES)
def test_every_shape_fills_a_part_of_its_square_and_has_room_to_turn(shape):
  mask = np.asarray(silhouette(shape)) / 255
  assert mask.shape == (96, 96) and 0.1 < mask.mean() < 0.5
  y, x = np.nonzero(mask)
  assert np.hypot(x - 47.5, y - 47.5).max() < 48


def test_areas_by_hand():
  circle, cross = (np.asarray(silhouette(shape)) / 255 for shape in ("circle", "cross"))
  # A disc of radius 1, and two bars of 2 x 0.6 that share a square.
  assert circle.sum() / cross.sum() == pytest.approx(np.pi / (2 * 1.2 - 0.36), rel=0.02)
  np.testing.assert_allclose(cross, cross.T, atol=0.01)
