"""CLIP's text tower alone."""

import functools

import jax
import numpy as np
import pytest

from rkd_jax.models.clip.text import TextTransformer

TOKENS = np.array([[18, 3, 4, 19, 0, 0], [18, 5, 19, 0, 0, 0]], np.int32)


@functools.cache
def encoder():
  """A compiled tower with random parameters."""
  model = TextTransformer(20, context_length=6, width=16, layers=1, heads=2, output_dim=8)
  shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
  return jax.jit(functools.partial(model.apply, params))


def test_what_follows_the_end_mark_does_not_matter():
  padded = TOKENS.copy()
  padded[1, 3:] = [7, 19, 2]
  np.testing.assert_allclose(encoder()(padded), encoder()(TOKENS), rtol=1e-5)


def test_word_order_matters():
  swapped = TOKENS.copy()
  swapped[0, 1:3] = swapped[0, 2:0:-1]
  assert not np.allclose(encoder()(swapped)[0], encoder()(TOKENS)[0], rtol=1e-4)


def test_rows_may_be_shorter_than_the_context_but_not_longer():
  np.testing.assert_allclose(encoder()(TOKENS[:, :4]), encoder()(TOKENS), rtol=1e-5)
  with pytest.raises(ValueError, match="have 7 entries, the model has 6"):
    encoder()(np.zeros((1, 7), np.int32))
