import jax
import numpy as np
import pytest
from flax import linen as nn

from rkd_jax.models.clip.vit import PatchEmbedding, VisionTransformer


def test_patches_are_those_of_a_strided_convolution():
  """Rows and columns behind the last whole patch count for neither."""
  images = np.random.default_rng(0).normal(size=(2, 13, 19, 3)).astype(np.float32)
  convolution = nn.Conv(6, (4, 4), (4, 4), padding="VALID", use_bias=False)
  params = convolution.init(jax.random.key(0), images)
  expected = convolution.apply(params, images).reshape(2, 3 * 4, 6)
  patches = PatchEmbedding(patch_size=4, width=6).apply(params, images)
  np.testing.assert_allclose(patches, expected, rtol=1e-5, atol=1e-5)


def test_images_of_another_size_are_refused():
  tower = VisionTransformer(4, 8, 1, 2, 5, input_resolution=8)
  images = np.zeros((1, 8, 8, 3), np.float32)
  embeddings, _ = jax.eval_shape(tower.init_with_output, jax.random.key(0), images)
  assert embeddings.shape == (1, 5)
  with pytest.raises(ValueError, match=r"\(8, 12\) pixels, this tower expects \(8, 8\)"):
    jax.eval_shape(tower.init, jax.random.key(0), np.zeros((1, 8, 12, 3), np.float32))
