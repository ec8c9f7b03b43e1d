import jax
import numpy as np

from rkd_jax.ops.padding import zero_beyond


def test_cells_partly_inside_stay_and_others_are_zero():
  """At stride 4 a height of 5 reaches into the second row, a width of 8 ends with the second."""
  x = np.arange(1, 33, dtype=np.float32).reshape(2, 4, 4, 1)
  kept = zero_beyond(x, np.array([[5, 8], [16, 1]]), 4)
  expected = np.zeros_like(x)
  expected[0, :2, :2] = x[0, :2, :2]
  expected[1, :, :1] = x[1, :, :1]
  np.testing.assert_array_equal(kept, expected)


def test_without_extents_nothing_changes():
  x = np.ones((1, 2, 3, 4), np.float32)
  assert zero_beyond(x, None, 2) is x


def test_no_gradient_enters_what_is_beyond_even_where_it_is_not_finite():
  x = np.array([1.0, 2.0, np.inf], np.float32).reshape(1, 1, 3, 1)
  extents = np.array([[1, 2]])
  gradient = jax.grad(lambda x: (zero_beyond(x, extents, 1) ** 2).sum())(x)
  np.testing.assert_array_equal(gradient.reshape(-1), [2, 4, 0])
