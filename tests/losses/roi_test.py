from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.losses.roi import agreement_weights, box_regression, classification

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_losses.npz")


@pytest.mark.parametrize("dataset", ["coco", "lvis"])
def test_sigmoid_loss_equals_the_original(dataset):
  logits = jnp.asarray(GOLDEN[f"{dataset}_ce_logits"])
  classes = jnp.asarray(GOLDEN[f"{dataset}_ce_gt"], jnp.int32)
  mask = jnp.asarray(GOLDEN[f"{dataset}_has_boxes"])
  valid = jnp.ones(len(classes), bool)
  plain = classification(logits, classes, valid, None)
  np.testing.assert_allclose(plain, GOLDEN[f"{dataset}_ce_loss_plain"], rtol=1e-5)
  masked = classification(logits, classes, valid, mask)
  np.testing.assert_allclose(masked, GOLDEN[f"{dataset}_ce_loss_zero_only"], rtol=1e-5)


def test_gradient_equals_the_original():
  classes = jnp.asarray(GOLDEN["coco_ce_gt"], jnp.int32)
  gradient = jax.jit(jax.grad(classification))(
    jnp.asarray(GOLDEN["coco_ce_logits"]),
    classes,
    jnp.ones(len(classes), bool),
    jnp.asarray(GOLDEN["coco_has_boxes"]),
  )
  rows, columns = np.linalg.norm(gradient, axis=1), np.linalg.norm(gradient, axis=0)
  np.testing.assert_allclose(rows, GOLDEN["coco_ce_grad_rownorm"], rtol=1e-5)
  np.testing.assert_allclose(columns, GOLDEN["coco_ce_grad_colnorm"], rtol=1e-5, atol=1e-8)


def test_sigmoid_by_hand():
  """A foreground and a background RoI, the second class without boxes; the rest is padding."""
  logits = jnp.array([[1.0, 9.0, 3.0], [-1.0, 9.0, 3.0], [9.0, 9.0, 9.0]])
  loss = classification(
    logits, jnp.array([0, 2, 2]), jnp.array([True, True, False]), jnp.array([True, False])
  )
  assert float(loss) == pytest.approx(np.log1p(np.exp(-1)), rel=1e-6)


def test_each_roi_may_count_columns_of_its_own():
  logits = jnp.array([[1.0, 2.0, 3.0], [-1.0, 3.0, 3.0]])
  arguments = logits, jnp.array([0, 2]), jnp.array([True, True])
  loss = classification(*arguments, jnp.array([[True, True], [True, False]]))
  expected = np.log1p(np.exp(-1)) + np.log1p(np.exp(2)) + np.log1p(np.exp(-1))
  assert float(loss) == pytest.approx(expected / 2, rel=1e-6)
  same = classification(*arguments, jnp.array([[True, False]] * 2))
  assert float(same) == float(classification(*arguments, jnp.array([True, False])))


def test_softmax_by_hand():
  """The paper's form: background competes, and no class is left out."""
  logits = jnp.array([[0.0, 0.0, np.log(2)], [0.0, np.log(2), 0.0], [5.0, 0.0, 0.0]])
  valid = jnp.array([True, True, False])
  loss = classification(logits, jnp.array([2, 0, 1]), valid, jnp.array([True, False]), "softmax")
  assert float(loss) == pytest.approx((np.log(2) + np.log(4)) / 2, rel=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_no_roi_gives_zero_and_no_gradient(kind):
  def loss(logits):
    return classification(logits, jnp.zeros(4, jnp.int32), jnp.zeros(4, bool), None, kind)

  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.ones((4, 3)))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_unknown_kind():
  one = jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
  with pytest.raises(ValueError, match=r"loss\.classification is 'focal'"):
    classification(*one, None, "focal")


@pytest.mark.parametrize("dataset, num_classes", [("coco", 80), ("lvis", 1203)])
def test_box_loss_equals_the_original(dataset, num_classes):
  proposals, gt, deltas = (
    jnp.asarray(GOLDEN[f"{dataset}_br_{x}"]) for x in ("prop", "gt", "deltas")
  )
  foreground = jnp.asarray(GOLDEN[f"{dataset}_br_cls"] < num_classes)
  loss = box_regression(deltas, proposals, gt, foreground, jnp.ones(len(gt), bool))
  np.testing.assert_allclose(loss, GOLDEN[f"{dataset}_br_loss"], rtol=1e-5)


def test_box_loss_is_smooth_l1_with_beta_zero():
  """Against the original's smooth L1: where proposal = ground truth, the target delta is 0."""
  a, b = GOLDEN["sl1_a"], GOLDEN["sl1_b"]
  box = jnp.tile(jnp.array([2.0, 3.0, 9.0, 7.0]), (len(a), 1))
  every = jnp.ones(len(a), bool)
  loss = box_regression(jnp.asarray(a - b), box, box, every, every)
  np.testing.assert_allclose(loss * len(a), GOLDEN["sl1_sum_beta0.00"], rtol=1e-5)


def test_box_loss_by_hand():
  """Shift by half the width: dx = 10 * 0.5; twice the height: dh = 5 log 2.  Three RoIs count."""
  boxes = jnp.array([[0.0, 0.0, 4.0, 2.0]] * 4)
  gt = jnp.array([[2.0, -1.0, 6.0, 3.0]] * 4)
  foreground, valid = jnp.array([True, False, False, True]), jnp.array([True, True, True, False])
  loss = box_regression(jnp.zeros((4, 4)), boxes, gt, foreground, valid)
  assert float(loss) == pytest.approx((5 + 5 * np.log(2)) / 3, rel=1e-6)


def test_empty_boxes_keep_value_and_gradient_finite():
  deltas, zeros = jnp.ones((3, 4)), jnp.zeros((3, 4))
  box = jnp.tile(jnp.array([1.0, 1.0, 3.0, 3.0]), (3, 1))
  every = jnp.ones(3, bool)
  value_and_grad = jax.jit(jax.value_and_grad(box_regression))
  for boxes, gt in [(zeros, zeros), (box, zeros), (zeros, box)]:
    value, gradient = value_and_grad(deltas, boxes, gt, every, every)
    assert np.isfinite(value) and np.isfinite(gradient).all()
  value, gradient = value_and_grad(deltas, zeros, zeros, every, ~every)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_agreement_by_hand():
  """An annotation; pseudo labels that both believe in, and that the detector sees nothing in."""
  quarter, half = np.log(1 / 3), 0.0
  logits = jnp.array([[9.0, 9.0, 9.0], [quarter, half, 9.0], [-9.0, quarter, 9.0], [9.0, 9.0, 9.0]])
  pseudo, scores = jnp.array([False, True, True, False]), jnp.array([1.0, 0.7, 0.6, 1.0])
  weights = agreement_weights(logits, pseudo, scores, 0.0)
  np.testing.assert_allclose(weights, [1, 0.7 + 0.5, 0.6 + 0.25, 1], rtol=1e-6)
  kept = agreement_weights(logits, pseudo, scores, 0.5)
  np.testing.assert_allclose(kept, [1, 1.2, 0, 1], rtol=1e-6)
  # Background, the last column, competes in a softmax, and is no object.
  competing = agreement_weights(logits[1:2], pseudo[1:2], scores[1:2], 0.0, "softmax")
  object_ = 1 / (1 + 1 / 3 + np.exp(9.0))
  np.testing.assert_allclose(competing, [0.7 + object_], rtol=1e-6)


def test_no_gradient_flows_through_agreement():
  logits, pseudo = jnp.array([[0.3, -0.2, 1.0]]), jnp.array([True])
  gradient = jax.grad(lambda x: agreement_weights(x, pseudo, jnp.array([0.5]), 0.0).sum())(logits)
  np.testing.assert_array_equal(gradient, 0)


def test_weights_count_rois_as_before():
  logits = jnp.array([[1.0, 2.0, 3.0], [-1.0, 3.0, 3.0], [9.0, 9.0, 9.0]])
  arguments = logits, jnp.array([0, 1, 1]), jnp.array([True, True, False]), None
  first, second = (
    float(classification(*arguments, weights=jnp.array(weights)))
    for weights in ([2.0, 0.0, 1.0], [0.0, 1.0, 5.0])
  )
  assert first == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) * 2 / 2, rel=1e-6)
  assert first / 2 + second == pytest.approx(float(classification(*arguments)), rel=1e-6)
