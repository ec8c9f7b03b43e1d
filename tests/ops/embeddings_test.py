import jax
import jax.numpy as jnp
import numpy as np

from rkd_jax.ops.embeddings import l2_normalize


def test_normalising_zero_rows_has_zero_gradient():
  x = jnp.array([[0.0, 0.0], [3.0, 4.0], [3e-10, 4e-10]])
  unit, pull = jax.vjp(l2_normalize, x)
  np.testing.assert_allclose(unit, [[0, 0], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6)
  (gradient,) = pull(jnp.ones((3, 2)))
  np.testing.assert_array_equal(gradient[0], 0)
  # d(x / |x|) removes the part along x: (1, 1) - 1.4 (0.6, 0.8), over the length 5.
  np.testing.assert_allclose(gradient[1], [0.032, -0.024], rtol=1e-5)
  assert np.isfinite(gradient).all()
