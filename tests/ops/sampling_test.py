import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.ops.sampling import sample_foreground_background


def test_identity_order_by_hand():
  label = jnp.array([0, 1, -1, 1, 0, 1, 0], jnp.int8)
  index, foreground, valid = sample_foreground_background(None, label, 4, 0.5)
  np.testing.assert_array_equal(index, [1, 3, 0, 4])
  np.testing.assert_array_equal(foreground, [True, True, False, False])
  assert np.all(valid)


def test_missing_foreground_is_filled_with_background():
  label = jnp.array([0, 0, 1, 0, 0], jnp.int8)
  index, foreground, valid = sample_foreground_background(None, label, 4, 0.5)
  np.testing.assert_array_equal(index, [2, 0, 1, 3])
  np.testing.assert_array_equal(foreground, [True, False, False, False])
  assert np.all(valid)


def test_missing_background_is_not_filled():
  label = jnp.array([1, 1, 1, 0, -1], jnp.int8)
  index, foreground, valid = sample_foreground_background(None, label, 8, 0.25)
  np.testing.assert_array_equal(valid, np.arange(8) < 3)
  np.testing.assert_array_equal(foreground, np.arange(8) < 2)
  np.testing.assert_array_equal(index, [0, 1, 3, 0, 0, 0, 0, 0])


def test_nothing_to_draw():
  _, foreground, valid = sample_foreground_background(None, -jnp.ones(3, jnp.int8), 2, 0.5)
  assert not np.any(foreground) and not np.any(valid)


@pytest.mark.parametrize("seed", range(3))
def test_random_draws(seed):
  rng = np.random.default_rng(seed)
  label = jnp.asarray(rng.choice([-1, 0, 1], 200, p=[0.2, 0.6, 0.2]).astype(np.int8))
  key = jax.random.key(seed)
  index, foreground, valid = map(np.asarray, sample_foreground_background(key, label, 64, 0.25))
  assert valid.all() and len(set(index.tolist())) == 64
  assert foreground.sum() == 16
  np.testing.assert_array_equal(np.asarray(label)[index], foreground.astype(int))
  other = sample_foreground_background(jax.random.key(seed + 100), label, 64, 0.25)[0]
  assert set(index.tolist()) != set(np.asarray(other).tolist())


def test_every_candidate_is_equally_likely():
  label = jnp.array([1] * 5 + [0] * 10, jnp.int8)
  keys = jax.random.split(jax.random.key(0), 2000)
  draw = jax.jit(jax.vmap(lambda k: sample_foreground_background(k, label, 4, 0.5)))
  index, foreground, valid = draw(keys)
  assert np.all(valid) and np.all(foreground == (index < 5))
  drawn = np.bincount(np.ravel(index), minlength=15) / len(keys)
  np.testing.assert_allclose(drawn[:5], 0.4, atol=0.05)
  np.testing.assert_allclose(drawn[5:], 0.2, atol=0.05)


def test_more_samples_than_candidates():
  label = jnp.array([1, 1, 0], jnp.int8)
  index, foreground, valid = sample_foreground_background(None, label, 256, 0.5)
  np.testing.assert_array_equal(index, [0, 1, 2] + [0] * 253)
  np.testing.assert_array_equal(foreground, np.arange(256) < 2)
  np.testing.assert_array_equal(valid, np.arange(256) < 3)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="num >= 1"):
    sample_foreground_background(None, jnp.zeros(3, jnp.int8), 0, 0.5)
  with pytest.raises(ValueError, match="fraction"):
    sample_foreground_background(None, jnp.zeros(3, jnp.int8), 2, 1.5)
