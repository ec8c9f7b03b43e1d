"""The layers of CLIP's transformers."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from rkd_jax.models.clip.transformer import Block, LayerNorm, PatchEmbedding, quick_gelu

X = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)


def test_quick_gelu_by_hand():
  x = np.array([-2.0, 0.0, 1.0], np.float32)
  np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * x)), rtol=1e-6)


def test_layer_norm_is_computed_in_float32_and_keeps_the_type():
  """Values whose squares a half cannot hold."""
  x = 300 * X.astype(np.float16) + 1000
  params = {"params": {"scale": np.full(8, 2, np.float32), "bias": np.ones(8, np.float32)}}
  normed = LayerNorm().apply(params, x)
  exact = x.astype(np.float64)
  exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
  assert normed.dtype == np.float16
  np.testing.assert_allclose(normed, 2 * exact + 1, atol=4e-3)


@functools.cache
def block(causal):
  """Compiled, with random parameters."""
  model = Block(heads=2, layers=1, causal=causal)
  shapes = jax.eval_shape(model.init, jax.random.key(0), X)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
  return jax.jit(functools.partial(model.apply, params))


@pytest.mark.parametrize("causal", [True, False])
def test_only_a_causal_block_is_blind_to_what_follows(causal):
  changed = X.copy()
  changed[:, 3:] *= -1
  before, after = block(causal)(X), block(causal)(changed)
  assert np.allclose(before[:, :3], after[:, :3], atol=1e-6) == causal
  assert not np.allclose(before[:, 3:], after[:, 3:], atol=1e-2)


def test_patches_are_those_of_a_strided_convolution():
  """Rows and columns behind the last whole patch count for neither."""
  images = np.random.default_rng(0).normal(size=(2, 13, 19, 3)).astype(np.float32)
  convolution = nn.Conv(6, (4, 4), (4, 4), padding="VALID", use_bias=False)
  params = convolution.init(jax.random.key(0), images)
  expected = convolution.apply(params, images).reshape(2, 3 * 4, 6)
  patches = PatchEmbedding(patch_size=4, width=6).apply(params, images)
  np.testing.assert_allclose(patches, expected, rtol=1e-5, atol=1e-5)
