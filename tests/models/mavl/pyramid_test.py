import numpy as np
from mavl_golden import arrays, assert_near

from rkd_jax.models.mavl.pyramid import make_pyramid, sine_positions

BATCH = np.array([[96, 128], [96, 128]])
SIZES = np.array([[96, 128], [80, 100]])


def level(x, pyramid, i):
  """Rows of `x` [b, s, ...] that belong to level i, as a map."""
  start = sum(h * w for h, w in pyramid.shapes[:i])
  h, w = pyramid.shapes[i]
  return np.asarray(x)[:, start : start + h * w].reshape(len(x), h, w, *x.shape[2:])


def test_a_padded_batch_has_the_original_masks():
  """Case B of the goldens: with nearest-neighbour masks a padded level may be fully valid."""
  pyramid = make_pyramid((96, 128), BATCH, SIZES)
  golden = arrays()
  np.testing.assert_array_equal(pyramid.shapes, golden["A/spatial_shapes"])
  np.testing.assert_array_equal(pyramid.valid, ~golden["B/mask_flatten"])
  np.testing.assert_array_equal(pyramid.valid_ratios, golden["B/valid_ratios"])
  assert level(pyramid.valid, pyramid, 3)[1].all()


def test_a_larger_canvas_holds_the_same_pyramid():
  small, large = (make_pyramid(canvas, BATCH, SIZES) for canvas in ((96, 128), (160, 130)))
  np.testing.assert_array_equal(small.valid_ratios, large.valid_ratios)
  np.testing.assert_array_equal(small.extents, large.extents)
  for i, (rows, columns) in enumerate(small.shapes):
    valid = level(large.valid, large, i)
    np.testing.assert_array_equal(valid[:, :rows, :columns], level(small.valid, small, i))
    assert not valid[:, rows:].any() and not valid[:, :, columns:].any()
    np.testing.assert_array_equal(
      level(large.cells, large, i)[:, :rows, :columns], level(small.cells, small, i)
    )


def test_cells_are_fractions_of_every_level():
  """An image that fills half the width: its last cell is at the end of each level's valid half."""
  pyramid = make_pyramid((64, 128), np.array([[64, 128]]), np.array([[64, 64]]))
  cells = level(pyramid.cells, pyramid, 0)[0]
  assert cells.shape == (8, 16, 4, 2)
  np.testing.assert_allclose(cells[0, 0], np.full((4, 2), [0.5 / 16, 0.5 / 8]), rtol=1e-6)
  np.testing.assert_allclose(cells[7, 7], np.full((4, 2), [7.5 / 16, 7.5 / 8]), rtol=1e-6)


def test_positions_equal_the_original():
  golden = arrays()
  whole = sine_positions((12, 16), np.array([[12, 16]]), 256).reshape(1, 12, 16, 256)
  assert_near(whole.transpose(0, 3, 1, 2)[:, ::4], golden["A/pos0"], 2e-6)
  pyramid = make_pyramid((96, 128), BATCH, SIZES)
  padded = sine_positions((6, 8), pyramid.valid_sizes[:, 1], 256).reshape(2, 6, 8, 256)
  assert_near(padded[1:].transpose(0, 3, 1, 2)[:, ::4], golden["B/pos1_image1"], 2e-6)
