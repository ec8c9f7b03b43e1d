from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.losses.mask import mask_bce

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_masks.npz")


def test_equals_the_original():
  logits, targets = GOLDEN["mk_logits"][:, 0], GOLDEN["mk_targets"]
  loss = mask_bce(logits, targets, np.ones(8, bool))
  np.testing.assert_allclose(loss, GOLDEN["mk_loss"], rtol=1e-5)


def test_training_loss_equals_the_original_with_padding():
  logits = GOLDEN["train_mask_logits"]
  targets = np.unpackbits(GOLDEN["train_mask_tgt_packed"], axis=1)[:, :784].reshape(-1, 28, 28)
  foreground = np.arange(12) < 7
  padding = np.full((5, 28, 28), 1e4, np.float32)
  loss = mask_bce(
    np.concatenate([logits, padding]),
    np.concatenate([targets, np.zeros((5, 28, 28))]).astype(bool),
    foreground,
  )
  np.testing.assert_allclose(loss, GOLDEN["train_loss_loss_mask"], rtol=1e-5)


def test_by_hand():
  """A right and a wrong pixel at odds 3 to 1; the second RoI is background."""
  logits = jnp.array([[[np.log(3), np.log(3)]], [[7.0, 7.0]]])
  targets = jnp.array([[[True, False]], [[True, True]]])
  loss = mask_bce(logits, targets, jnp.array([True, False]))
  assert float(loss) == pytest.approx(-(np.log(3 / 4) + np.log(1 / 4)) / 2, rel=1e-6)


def test_gradient_is_that_of_a_mean_and_finite_at_large_logits():
  logits = jnp.array([[[0.0, 80.0]], [[-80.0, 0.0]]])
  targets = jnp.array([[[True, False]], [[True, False]]])
  gradient = jax.grad(mask_bce)(logits, targets, jnp.array([True, True]))
  np.testing.assert_allclose(gradient, [[[-0.125, 0.25]], [[-0.25, 0.125]]], atol=1e-6)


def test_no_foreground_gives_zero_and_no_gradient():
  value, gradient = jax.value_and_grad(mask_bce)(
    jnp.full((3, 2, 2), 5.0), jnp.zeros((3, 2, 2), bool), jnp.zeros(3, bool)
  )
  assert float(value) == 0
  np.testing.assert_array_equal(gradient, np.zeros((3, 2, 2)))
