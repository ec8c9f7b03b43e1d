from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.losses.rkd import point_wise_l1

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_losses.npz")
# L1 differences of the unit vectors: |(1, 0) - (0, 1)| = 2 and |(0.6, 0.8) - (0.6, 0.8)| = 0.
STUDENT = jnp.array([[2.0, 0.0], [0.6, 0.8]])
TEACHER = jnp.array([[0.0, 5.0], [3.0, 4.0]])
VALID = jnp.array([True, True])


@pytest.mark.parametrize("dataset, weight", [("coco", 0.15), ("lvis", 0.25)])
def test_value_and_gradient_equal_the_original(dataset, weight):
  student, teacher = (jnp.asarray(GOLDEN[f"{dataset}_dist_{x}"]) for x in ("student", "teacher"))
  valid = jnp.ones(len(student), bool)

  def loss(x):
    return 100 * weight * point_wise_l1(x, teacher, valid)

  value, gradient = jax.jit(jax.value_and_grad(loss))(student)
  np.testing.assert_allclose(value, GOLDEN[f"{dataset}_dist_l1"], rtol=1e-5)
  # The original normalises before the loss and the golden is the gradient there; through the
  # normalisation, at unit length, only the part across the embedding remains.
  golden = GOLDEN[f"{dataset}_dist_l1_grad"]
  expected = golden - np.sum(golden * student, axis=1, keepdims=True) * student
  np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_hand_computed_reductions():
  assert float(point_wise_l1(STUDENT, TEACHER, VALID, "mean")) == pytest.approx(2 / 4)
  assert float(point_wise_l1(STUDENT, TEACHER, VALID, "sum")) == pytest.approx(2 / 2)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_padding_rows_change_nothing(reduction):
  padded = [jnp.concatenate([x, jnp.full((3, 2), 7.0)]) for x in (STUDENT, -TEACHER)]
  valid = jnp.array([True, True, False, False, False])
  expected = point_wise_l1(STUDENT, -TEACHER, VALID, reduction)
  np.testing.assert_allclose(point_wise_l1(*padded, valid, reduction), expected, rtol=1e-6)


def test_no_region_and_zero_embeddings_are_finite():
  value_and_grad = jax.jit(jax.value_and_grad(point_wise_l1))
  value, gradient = value_and_grad(STUDENT, TEACHER, jnp.array([False, False]))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)
  value, gradient = value_and_grad(STUDENT.at[0].set(0), TEACHER, VALID)
  assert float(value) == pytest.approx(1 / 4)
  np.testing.assert_array_equal(gradient[0], 0)
  assert np.isfinite(gradient).all()


def test_unknown_reduction():
  with pytest.raises(ValueError, match=r"loss\.rkd\.reduction is 'max'"):
    point_wise_l1(STUDENT, TEACHER, VALID, "max")
