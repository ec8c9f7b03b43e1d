import numpy as np

from rkd_jax.models.clip.preprocess import MEAN, STD, normalize


def test_normalize_gives_zero_mean_colour():
  mean = (np.array(MEAN) * 255).round().astype(np.uint8)
  np.testing.assert_allclose(normalize(mean[None, None]), np.zeros((1, 1, 3)), atol=0.01)
  np.testing.assert_allclose(
    normalize(np.full((1, 1, 3), 255, np.uint8))[0, 0], (1 - np.array(MEAN)) / STD, rtol=1e-6
  )
