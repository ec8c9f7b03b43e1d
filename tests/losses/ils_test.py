from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.losses.ils import pseudo_max_score

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_losses.npz")
loss_of = jax.jit(pseudo_max_score)


def golden_batch(dataset):
  """Logits of the box that carries each label's key, padded to three labels per image."""
  logits, keys = GOLDEN[f"{dataset}_pms_logits"], GOLDEN[f"{dataset}_pms_keys"]
  labels = np.split(GOLDEN[f"{dataset}_pms_labels"], np.cumsum(GOLDEN[f"{dataset}_pms_nlab"])[:-1])
  starts = np.cumsum(GOLDEN[f"{dataset}_pms_nbox"])[:-1]
  boxes = list(zip(np.split(logits, starts), np.split(keys, starts), strict=True))
  picked = np.full((3, 3, logits.shape[1]), 9, np.float32)
  classes, valid = np.zeros((3, 3), np.int32), np.zeros((3, 3), bool)
  for i, (image_labels, (image_logits, image_keys)) in enumerate(zip(labels, boxes, strict=True)):
    for j, label in enumerate(image_labels):
      picked[i, j] = image_logits[list(image_keys).index(label)]
      classes[i, j], valid[i, j] = label, True
  return jnp.asarray(picked), jnp.asarray(classes), jnp.asarray(valid)


@pytest.mark.parametrize("dataset", ["coco", "lvis"])
def test_value_and_gradient_equal_the_original(dataset):
  logits, classes, valid = golden_batch(dataset)

  def loss(x):
    return 0.1 * pseudo_max_score(x, classes, valid)

  value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
  np.testing.assert_allclose(value, GOLDEN[f"{dataset}_pms_loss_weighted"], rtol=1e-5)
  norms = np.linalg.norm(gradient, axis=-1)[np.asarray(valid)]
  expected = GOLDEN[f"{dataset}_pms_grad_rownorm"]
  # Boxes without a label, such as `salient`, have no gradient there and are left out here.
  np.testing.assert_allclose(np.sort(norms), np.sort(expected[expected > 0]), rtol=1e-5)


@pytest.mark.parametrize("dataset", ["coco", "lvis"])
def test_single_label_equals_the_original(dataset):
  logits, classes, _ = golden_batch(dataset)
  of_label_7 = jnp.array([[False, True, False]])
  loss = loss_of(logits[:1], classes[:1], of_label_7)
  np.testing.assert_allclose(loss, GOLDEN[f"{dataset}_pms_single"][0], rtol=1e-5)


def test_hand_computed():
  """Zero logits cost log 2 per column; images are averaged, one without labels counts as 0."""
  logits = jnp.zeros((2, 2, 3)).at[0, 0, 1].set(2.0)
  classes = jnp.array([[1, 0], [0, 0]])
  valid = jnp.array([[True, True], [False, False]])
  first = np.log1p(np.exp(-2)) + 2 * np.log(2)  # the label's own logit is 2
  expected = (first + 3 * np.log(2)) / 2 / 2
  assert float(loss_of(logits, classes, valid)) == pytest.approx(expected, rel=1e-6)


def test_background_column_is_a_negative():
  classes, valid = jnp.array([[0]]), jnp.array([[True]])
  gradient = jax.jit(jax.grad(pseudo_max_score))(jnp.zeros((1, 1, 3)), classes, valid)
  np.testing.assert_allclose(gradient[0, 0], [-0.5, 0.5, 0.5], rtol=1e-6)


def test_padding_rows_change_nothing():
  logits, classes, valid = golden_batch("coco")
  more = [
    jnp.concatenate([logits, jnp.full((3, 2, 81), 5.0)], axis=1),
    jnp.concatenate([classes, jnp.full((3, 2), 4)], axis=1),
    jnp.concatenate([valid, jnp.zeros((3, 2), bool)], axis=1),
  ]
  expected = loss_of(logits, classes, valid)
  np.testing.assert_allclose(loss_of(*more), expected, rtol=1e-6)
  value, gradient = jax.jit(jax.value_and_grad(pseudo_max_score))(
    logits, classes, jnp.zeros_like(valid)
  )
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)
