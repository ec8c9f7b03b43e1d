from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.losses.irm import (
  inter_embedding_relationship,
  relation_divergence,
  relationship_matrix,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_losses.npz")
# Gram matrices of the unit vectors: [[1, 0.6], [0.6, 1]] and [[1, 0], [0, 1]].
STUDENT = jnp.array([[3.0, 0.0], [0.6, 0.8]])
TEACHER = jnp.array([[1.0, 0.0], [0.0, 2.0]])
PUBLISHED = {"row_norm": "l1", "reduction": "sum"}
PAPER = {"row_norm": "l2", "reduction": "mean"}
VALID = jnp.array([True, True])
loss_and_gradient = jax.jit(
  jax.value_and_grad(inter_embedding_relationship), static_argnames=("row_norm", "reduction")
)


@pytest.mark.parametrize("dataset, weight", [("coco", 0.15), ("lvis", 0.13)])
def test_value_and_gradient_equal_the_original(dataset, weight):
  student, teacher = (jnp.asarray(GOLDEN[f"{dataset}_dist_{x}"]) for x in ("student", "teacher"))
  valid = jnp.ones(len(student), bool)

  def loss(x):
    return 100 * weight * inter_embedding_relationship(x, teacher, valid)

  value, gradient = jax.jit(jax.value_and_grad(loss))(student)
  np.testing.assert_allclose(value, GOLDEN[f"{dataset}_dist_irm"], rtol=1e-5)
  # The original normalises before the loss and the golden is the gradient there; through the
  # normalisation, at unit length, only the part across the embedding remains.
  golden = GOLDEN[f"{dataset}_dist_irm_grad"]
  expected = golden - np.sum(golden * student, axis=1, keepdims=True) * student
  np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_published_form_by_hand():
  """Rows by their L1 norm: [1, 0.6] / 1.6 against [1, 0]; squares summed."""
  expected = 2 * ((1 / 1.6 - 1) ** 2 + (0.6 / 1.6) ** 2)
  assert float(inter_embedding_relationship(STUDENT, TEACHER, VALID)) == pytest.approx(expected)


def test_paper_form_by_hand():
  """Rows by their L2 norm; squares averaged over the K^2 = 4 entries."""
  norm = np.hypot(1, 0.6)
  expected = 2 * ((1 / norm - 1) ** 2 + (0.6 / norm) ** 2) / 4
  loss = inter_embedding_relationship(STUDENT, TEACHER, VALID, "l2", "mean")
  assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("switches", [PUBLISHED, PAPER])
def test_padding_rows_change_nothing(switches):
  padded = [jnp.concatenate([x, jnp.full((3, 2), 7.0)]) for x in (STUDENT, TEACHER)]
  valid = jnp.array([True, True, False, False, False])
  expected, expected_gradient = loss_and_gradient(STUDENT, TEACHER, VALID, **switches)
  value, gradient = loss_and_gradient(*padded, valid, **switches)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient[:2], expected_gradient, atol=1e-6)
  np.testing.assert_array_equal(gradient[2:], 0)


@pytest.mark.parametrize("switches", [PUBLISHED, PAPER])
def test_order_of_regions_does_not_matter(switches):
  student, teacher = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
  order, valid = np.array([3, 0, 4, 1, 2]), jnp.ones(5, bool)
  expected = inter_embedding_relationship(
    jnp.asarray(student), jnp.asarray(teacher), valid, **switches
  )
  shuffled = inter_embedding_relationship(
    jnp.asarray(student[order]), jnp.asarray(teacher[order]), valid, **switches
  )
  np.testing.assert_allclose(shuffled, expected, rtol=1e-5)


@pytest.mark.parametrize("row_norm", ["l1", "l2"])
def test_no_region_and_zero_embeddings_are_finite(row_norm):
  value, gradient = loss_and_gradient(STUDENT, TEACHER, ~VALID, row_norm=row_norm)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)
  value, gradient = loss_and_gradient(STUDENT.at[0].set(0), TEACHER, VALID, row_norm=row_norm)
  # The student's rows are [0, 0] and [0, 1], the teacher's [1, 0] and [0, 1].
  assert float(value) == pytest.approx(1)
  np.testing.assert_array_equal(gradient[0], 0)
  assert np.isfinite(gradient).all()


def test_unknown_switches():
  with pytest.raises(ValueError, match=r"loss\.irm\.row_norm is 'max'"):
    relationship_matrix(STUDENT, VALID, "max")
  with pytest.raises(ValueError, match=r"loss\.irm\.reduction is 'max'"):
    inter_embedding_relationship(STUDENT, TEACHER, VALID, reduction="max")


def _relation_divergence(student, teacher, valid, temperature):
  """The same by loops, in float64."""
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in np.float64([student, teacher])]
  total, rows = 0.0, np.flatnonzero(valid)
  for i in rows:
    q, p = (np.exp([temperature * x[i] @ x[j] for j in rows if j != i]) for x in unit)
    p, q = p / p.sum(), q / q.sum()
    total += np.sum(p * np.log(p / q))
  return total / max(len(rows), 1)


def test_relations_by_hand():
  """Teacher's cosines of region 0 with 1 and 2: 1 and 0; the student's: 0 and 1; and so on."""
  teacher = jnp.array([[1.0, 0], [2, 0], [0, 1]])
  student = jnp.array([[1.0, 0], [0, 3], [1, 0]])
  p = np.e / (np.e + 1)
  # Regions 0, 1 and 2 have the teacher's (p, 1 - p), (p, 1 - p) and halves.
  first = (2 * p - 1) * 1.0
  second = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
  third = np.log(0.5) - (np.log(p) + np.log(1 - p)) / 2
  found = relation_divergence(student, teacher, jnp.ones(3, bool), 1.0)
  assert float(found) == pytest.approx((first + second + third) / 3, rel=1e-5)


def test_relations_as_by_loops_in_any_order_with_any_padding():
  rng = np.random.default_rng(3)
  student, teacher = rng.normal(size=(2, 6, 4)).astype(np.float32)
  valid = np.array([1, 0, 1, 1, 0, 1], bool)
  divergence = jax.jit(relation_divergence, static_argnums=3)
  wanted = _relation_divergence(student, teacher, valid, 5.0)
  assert wanted > 0.1
  order = rng.permutation(6)
  scrambled = np.where(valid[:, None], 3 * student, 7)
  for args in (
    (student, teacher, valid),
    (student[order], 2 * teacher[order], valid[order]),
    (scrambled, np.where(valid[:, None], teacher, -1), valid),
  ):
    assert float(divergence(*args, 5.0)) == pytest.approx(wanted, rel=1e-5)
  # Only angles count: a turned space has the same relations.
  turn = np.linalg.qr(rng.normal(size=(4, 4)))[0].astype(np.float32)
  assert float(divergence(teacher @ turn, teacher, valid, 5.0)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_relations_of_few_equal_or_zero_regions_are_finite(count):
  rng, valid = np.random.default_rng(4), np.arange(5) < count
  student, teacher = rng.normal(size=(2, 5, 3)).astype(np.float32)
  slope = jax.jit(jax.value_and_grad(relation_divergence), static_argnums=3)
  same, zero = np.ones_like(student), np.zeros_like(student)
  for args in ((student, teacher), (same, same), (zero, zero), (student, same), (same, teacher)):
    value, gradient = slope(*args, valid, 5.0)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~valid], 0)
    # With one other region there is nothing to divide.
    assert count > 2 or float(value) == pytest.approx(0, abs=1e-6)
  assert count < 3 or np.abs(slope(student, teacher, valid, 5.0)[1]).max() > 1e-3
