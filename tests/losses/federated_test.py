from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.losses.federated import federated_classes
from rkd_jax.losses.roi import classification

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_masks.npz")
LOSSES = np.load(Path(__file__).parents[1] / "golden/detector_losses.npz")
WEIGHTS = np.sqrt(GOLDEN["fed_image_count"]).astype(np.float32)
C = len(WEIGHTS)


def all_valid(classes):
  return jnp.ones(len(classes), bool)


def test_draw_and_loss_equal_the_original():
  classes = jnp.asarray(LOSSES["lvis_ce_gt"], jnp.int32)
  mask = federated_classes(None, classes, all_valid(classes), WEIGHTS)
  expected = np.concatenate([classes[classes < C], GOLDEN["fed_sampled"]])
  np.testing.assert_array_equal(np.flatnonzero(mask), np.unique(expected))

  logits = jnp.asarray(LOSSES["lvis_ce_logits"])
  alone = classification(logits, classes, all_valid(classes), mask)
  np.testing.assert_allclose(alone, GOLDEN["fed_only_loss"], rtol=1e-5)
  both = mask & LOSSES["lvis_has_boxes"]
  loss, gradient = jax.value_and_grad(classification)(logits, classes, all_valid(classes), both)
  np.testing.assert_allclose(loss, GOLDEN["fed_loss"], rtol=1e-5)
  np.testing.assert_allclose(
    np.linalg.norm(gradient, axis=1), GOLDEN["fed_grad_rownorm"], rtol=1e-4
  )
  np.testing.assert_allclose(
    np.linalg.norm(gradient, axis=0), GOLDEN["fed_grad_colnorm"], rtol=1e-4, atol=1e-9
  )


def test_training_draw_equals_the_original():
  labels = GOLDEN["train_roi_labels"]
  mask = np.asarray(federated_classes(None, labels, all_valid(labels), WEIGHTS))
  expected = np.concatenate([labels[labels < C], GOLDEN["train_fed_sampled"]])
  np.testing.assert_array_equal(np.flatnonzero(mask), np.unique(expected))


def test_by_hand():
  """Four places: class 4 and background have two, the two heaviest others get the rest."""
  weights = jnp.array([1.0, 5, 0, 3, 9, 2])
  mask = federated_classes(None, jnp.array([4, 6, 4, 6]), jnp.ones(4, bool), weights, 4)
  np.testing.assert_array_equal(mask, [False, True, False, True, True, False])


def test_background_takes_a_place_only_if_a_roi_has_it():
  weights = jnp.array([1.0, 5, 0, 3, 9, 2])
  mask = federated_classes(None, jnp.array([4, 4]), jnp.ones(2, bool), weights, 3)
  assert np.flatnonzero(mask).tolist() == [1, 3, 4]
  padded = federated_classes(
    None, jnp.array([4, 4, 6, 0]), jnp.array([True, True, False, False]), weights, 3
  )
  np.testing.assert_array_equal(padded, mask)


def test_classes_of_weight_zero_count_only_where_they_appear():
  weights = jnp.array([0.0, 0, 1, 1])
  mask = federated_classes(None, jnp.array([0]), jnp.ones(1, bool), weights, 4)
  assert np.flatnonzero(mask).tolist() == [0, 2, 3]


@pytest.mark.parametrize("num_sample", [1, 2, 3])
def test_nothing_is_drawn_if_enough_appear(num_sample):
  mask = federated_classes(
    jax.random.key(0), jnp.array([0, 1, 5]), jnp.ones(3, bool), jnp.ones(5), num_sample
  )
  assert np.flatnonzero(mask).tolist() == [0, 1]


def test_draw_follows_the_weights():
  """One place next to background: the chance of a class is its share of the weight."""
  weights = jnp.array([1.0, 2, 0, 5])
  draw = jax.vmap(lambda key: federated_classes(key, jnp.array([4]), jnp.ones(1, bool), weights, 2))
  frequency = draw(jax.random.split(jax.random.key(0), 4000)).mean(axis=0)
  np.testing.assert_allclose(frequency, weights / 8, atol=0.03)


def test_draw_is_without_replacement():
  common = int(np.argmax(WEIGHTS))
  draw = jax.vmap(
    lambda key: federated_classes(key, jnp.array([common, C]), jnp.ones(2, bool), WEIGHTS, 50)
  )
  masks = draw(jax.random.split(jax.random.key(1), 50))
  np.testing.assert_array_equal(masks.sum(axis=1), np.full(50, 49))  # background has one place
  assert not masks[:, WEIGHTS == 0].any()
  assert len(np.unique(masks, axis=0)) == 50


def test_refuses_no_places():
  with pytest.raises(ValueError, match="num_sample=0"):
    federated_classes(None, jnp.array([0]), jnp.ones(1, bool), jnp.ones(3), 0)
