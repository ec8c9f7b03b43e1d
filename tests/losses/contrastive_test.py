import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.losses.contrastive import contrastive_loss

RNG = np.random.default_rng(0)
IMAGES, TEXTS = jnp.asarray(RNG.normal(size=(2, 6, 5)), jnp.float32)


def test_hand_computed_pair():
  """Cosines [[1, 0], [0.6, 0.8]], scale 1."""
  images = jnp.array([[3.0, 0], [6, 8]])
  texts = jnp.array([[1.0, 0], [0, 2]])
  image_loss = (np.log(np.e + 1) - 1 + np.log(np.exp(0.6) + np.exp(0.8)) - 0.8) / 2
  text_loss = (np.log(np.e + np.exp(0.6)) - 1 + np.log(1 + np.exp(0.8)) - 0.8) / 2
  loss, accuracy = contrastive_loss(images, texts, 1.0)
  assert float(loss) == pytest.approx((image_loss + text_loss) / 2, rel=1e-6)
  assert accuracy == 1


def test_equal_embeddings_give_log_n():
  loss, _ = contrastive_loss(jnp.ones((6, 5)), jnp.ones((6, 5)), 10.0)
  assert float(loss) == pytest.approx(np.log(6), rel=1e-6)


def test_accuracy_counts_both_directions():
  images = jnp.eye(3)
  texts = jnp.array([[1.0, 0, 0], [0.9, 0.5, 0], [0, 0, 1]])
  # Image 1 finds text 1 and every text but text 1 finds its image.
  assert float(contrastive_loss(images, texts, 10.0)[1]) == pytest.approx(5 / 6)


def test_equal_captions_are_not_negatives():
  images = jnp.eye(4)[jnp.array([0, 0, 1, 2])]
  ids = jnp.array([7, 7, 3, 5])
  loss, accuracy = contrastive_loss(images, images, 100.0, ids)
  # Two equal pairs share the mass: half each, so the cross-entropy is log 2 for two rows of four.
  assert float(loss) == pytest.approx(np.log(2) / 2, abs=1e-5)
  assert accuracy == 1
  gradient = jax.grad(lambda x: contrastive_loss(x, images, 100.0, ids)[0])(images)
  np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_token_rows_say_which_captions_are_equal():
  ids = jnp.array([0, 1, 0, 2, 3, 1])
  tokens = jnp.array([[9, 1, 2], [9, 1, 3], [9, 1, 2], [9, 2, 2], [8, 1, 2], [9, 1, 3]])
  by_ids = contrastive_loss(IMAGES, TEXTS, 5.0, ids)
  by_tokens = contrastive_loss(IMAGES, TEXTS, 5.0, tokens)
  np.testing.assert_allclose(by_tokens, by_ids, rtol=1e-6)
  assert by_ids[0] != contrastive_loss(IMAGES, TEXTS, 5.0)[0]


def test_order_of_the_batch_and_length_of_the_embeddings_do_not_matter():
  ids = jnp.array([0, 1, 0, 2, 3, 1])
  order = np.array([3, 1, 0, 5, 4, 2])
  expected = contrastive_loss(IMAGES, TEXTS, 5.0, ids)
  shuffled = contrastive_loss(7 * IMAGES[order], 0.1 * TEXTS[order], 5.0, ids[order])
  np.testing.assert_allclose(shuffled, expected, rtol=1e-5)


def test_zero_embedding_keeps_loss_and_gradient_finite():
  images = IMAGES.at[2].set(0)
  loss, gradient = jax.value_and_grad(lambda x: contrastive_loss(x, TEXTS, 5.0)[0])(images)
  assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_half_precision_embeddings_are_compared_in_float32():
  half = [jnp.asarray(x, jnp.bfloat16) for x in (IMAGES, TEXTS)]
  loss, _ = contrastive_loss(*half, 50.0)
  exact, _ = contrastive_loss(*(x.astype(jnp.float32) for x in half), 50.0)
  assert loss.dtype == jnp.float32
  assert float(loss) == pytest.approx(float(exact), rel=1e-6)
