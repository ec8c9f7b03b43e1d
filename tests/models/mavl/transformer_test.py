"""Attention of the multi-modal ViT by hand."""

import numpy as np

from rkd_jax.models.mavl.transformer import Attention, layer_norm


def test_attention_is_a_mean_over_what_is_valid():
  """Queries of zero look at all valid keys alike."""
  rng = np.random.default_rng(0)
  queries, keys, values = (rng.normal(size=(1, n, 4)).astype(np.float32) for n in (2, 3, 3))
  same = {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}
  params = {"params": dict.fromkeys(("key", "value", "out_proj"), same)}
  params["params"]["query"] = {name: 0 * value for name, value in same.items()}
  attend = Attention(heads=2)
  valid = np.array([[True, False, True]])
  expected = np.tile(values[:, [0, 2]].mean(1, keepdims=True), (1, 2, 1))
  np.testing.assert_allclose(
    attend.apply(params, queries, keys, values, valid), expected, rtol=1e-5
  )
  expected = np.tile(values.mean(1, keepdims=True), (1, 2, 1))
  np.testing.assert_allclose(attend.apply(params, queries, keys, values), expected, rtol=1e-5)


def test_layer_norm_of_large_values_is_not_the_fast_variance():
  """Their squares lose in float32 what the differences keep."""
  x = np.array([[4096.0, 4097.0, 4098.0, 4099.0]], np.float32)
  params = {"params": {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}}
  expected = (np.arange(4) - 1.5) / np.sqrt(1.25)
  np.testing.assert_allclose(layer_norm("norm").apply(params, x)[0], expected, rtol=1e-4)
