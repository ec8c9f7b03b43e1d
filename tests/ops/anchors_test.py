from pathlib import Path

import numpy as np
import pytest

from rkd_jax.ops.anchors import cell_anchors, grid_anchors

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_ops.npz")
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)


def test_square_cell_anchor_is_centred_on_the_origin():
  np.testing.assert_array_equal(cell_anchors([8], [1.0]), [[-4, -4, 4, 4]])


def test_order_is_y_then_x_then_anchor():
  anchors = grid_anchors(2, 3, 10, [2], [1.0, 1.0])
  centers = (anchors[:, :2] + anchors[:, 2:]) / 2
  expected = [(x, y) for y in (0, 10) for x in (0, 10, 20) for _ in range(2)]
  np.testing.assert_array_equal(centers, expected)


def test_c4_golden():
  np.testing.assert_array_equal(cell_anchors(SIZES, RATIOS), GOLDEN["anc_c4_cell"])
  np.testing.assert_array_equal(grid_anchors(5, 7, 16, SIZES, RATIOS), GOLDEN["anc_c4_5x7"])


@pytest.mark.parametrize("level", range(5))
def test_fpn_golden(level):
  height, width = [(6, 8), (3, 4), (2, 2), (1, 1), (1, 1)][level]
  anchors = grid_anchors(height, width, 4 * 2**level, [SIZES[level]], RATIOS)
  np.testing.assert_array_equal(anchors, GOLDEN[f"anc_fpn{level}"])
