import numpy as np

from rkd_jax.machine.batches import map_batches


def test_batches_have_one_size_and_padding_is_dropped():
  seen = []

  def double(rows):
    seen.append(rows.tolist())
    return 2 * rows

  rows = np.arange(10).reshape(5, 2)
  np.testing.assert_array_equal(map_batches(double, rows, 2), 2 * rows)
  assert seen == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [0, 0]]]
