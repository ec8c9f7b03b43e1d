"""Parts of CLIP's ResNet."""

import jax
import numpy as np

from rkd_jax.models.clip.modified_resnet import AttentionPool


def test_attention_pool_without_attention_is_a_mean():
  """Queries of zero look at all places alike: the map's, and their mean once more."""
  x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
  dense = {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}
  params = dict.fromkeys(("q_proj", "k_proj", "v_proj", "c_proj"), dense)
  params["q_proj"] = jax.tree.map(np.zeros_like, dense)
  params["positional_embedding"] = np.zeros((10, 4), np.float32)
  pooled = AttentionPool(heads=2, output_dim=4).apply({"params": params}, x)
  np.testing.assert_allclose(pooled, x.mean((1, 2)), rtol=1e-4, atol=1e-6)
