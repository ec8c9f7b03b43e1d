import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from rkd_jax.configs import common
from rkd_jax.losses.rpn import rpn_losses
from rkd_jax.structures import GroundTruth, Regions, RpnOutputs

# Four anchors of 10 pixels side by side; the fourth lies wholly to the right of a 30 pixel image.
ANCHORS = jnp.array(
  [
    [0.0, 0.0, 10.0, 10.0],
    [10.0, 0.0, 20.0, 10.0],
    [20.0, 0.0, 30.0, 10.0],
    [30.0, 0.0, 40.0, 10.0],
  ]
)


def options(batch_size_per_image):
  config = {**common.loss().rpn, "batch_size_per_image": batch_size_per_image}
  return ml_collections.FrozenConfigDict(config)


def outputs(logits, deltas=None):
  logits = jnp.asarray(logits, jnp.float32)
  deltas = jnp.zeros((*logits.shape, 4)) if deltas is None else jnp.asarray(deltas)
  valid = jnp.ones(logits.shape, bool)
  return RpnOutputs(anchors=ANCHORS, logits=logits, deltas=deltas, valid=valid)


def ground_truth(boxes, valid=None):
  boxes = jnp.asarray(boxes, jnp.float32)
  valid = jnp.ones(boxes.shape[:2], bool) if valid is None else jnp.asarray(valid)
  return GroundTruth(boxes=boxes, classes=jnp.zeros(boxes.shape[:2], jnp.int32), valid=valid)


@functools.cache
def compiled(batch_size):
  return jax.jit(lambda *args: rpn_losses(*args, options(batch_size)))


def losses(out, truth, width=40, batch_size=8, keys=None):
  valid = jnp.broadcast_to(ANCHORS[:, 0] < width, out.logits.shape)
  return compiled(batch_size)(out.replace(valid=valid), truth, keys)


def test_hand_computed():
  """Anchor 0 matches (IoU 0.8) with dx = -0.1, dw = log 0.8; the others are background."""
  truth = ground_truth([[[0.0, 0.0, 8.0, 10.0]]])
  objectness, regression = losses(outputs([[2.0, 0.0, 0.0, -1.0]]), truth)
  expected = np.log1p(np.exp(-2)) + 2 * np.log(2) + np.log1p(np.exp(-1))
  assert float(objectness) == pytest.approx(expected / 8, rel=1e-6)
  assert float(regression) == pytest.approx((0.1 - np.log(0.8)) / 8, rel=1e-5)


def test_pseudo_labels_are_no_ground_truth():
  boxes = [[[0.0, 0.0, 8.0, 10.0], [20.0, 0.0, 30.0, 10.0]]]
  truth, out = ground_truth(boxes), outputs([[2.0, 0.0, 0.5, -1.0]], np.ones((1, 4, 4)))
  labelled = truth.replace(pseudo=jnp.array([[False, True]]))
  expected = losses(out, ground_truth(boxes, [[True, False]]))
  np.testing.assert_array_equal(losses(out, labelled), expected)
  assert abs(losses(out, truth)[1] - expected[1]) > 0.1


def test_between_the_thresholds_is_ignored_unless_it_is_the_best():
  # IoU 0.6 with anchor 0: low quality, but the best there is.
  best = ground_truth([[[0.0, 0.0, 6.0, 10.0]]])
  assert float(losses(outputs(np.zeros((1, 4))), best)[1]) > 0
  # A 20 pixel box meets anchors 1 and 2 with IoU 0.5 each: both claimed, so nothing is ignored.
  wide = ground_truth([[[10.0, 0.0, 30.0, 10.0]]])
  regression = losses(outputs(np.zeros((1, 4))), wide)[1]
  assert float(regression) == pytest.approx(2 * (0.5 + np.log(2)) / 8, rel=1e-5)
  # IoU 8/17 with anchor 1 and 7/18 with anchor 2, which is neither the best nor background.
  one = ground_truth([[[12.0, 0.0, 27.0, 10.0]]])
  objectness = losses(outputs([[0.0, 9.0, 50.0, -9.0]]), one)[0]
  expected = np.log(2) + 2 * np.log1p(np.exp(-9))
  assert float(objectness) == pytest.approx(expected / 8, rel=1e-5)


def test_normaliser_is_nominal_and_counts_images():
  truth = ground_truth([[[0.0, 0.0, 8.0, 10.0]]] * 2)
  out = outputs(np.zeros((2, 4)))
  objectness, _ = losses(out, truth)
  assert float(objectness) == pytest.approx(8 * np.log(2) / (8 * 2), rel=1e-6)
  halved, _ = losses(out, truth, batch_size=4)
  assert float(halved) == pytest.approx(8 * np.log(2) / (4 * 2), rel=1e-6)


def test_anchors_over_the_padding_are_not_sampled():
  truth = ground_truth([[[0.0, 0.0, 8.0, 10.0]]])
  inside = losses(outputs([[2.0, 0.0, 0.0, 50.0]]), truth, width=30)
  expected = np.log1p(np.exp(-2)) + 2 * np.log(2)
  assert float(inside[0]) == pytest.approx(expected / 8, rel=1e-6)
  # Nor do they take a box away from the best anchor over the image.
  edge = ground_truth([[[24.0, 0.0, 40.0, 10.0]]])
  assert float(losses(outputs([[0.0, 0.0, 0.0, 0.0]]), edge, width=30)[1]) > 0


def test_padding_rows_change_nothing():
  out = outputs([[1.0, -2.0, 0.5, 3.0]], np.full((1, 4, 4), 0.3, np.float32))
  truth = ground_truth([[[0.0, 0.0, 8.0, 10.0]]])
  rows = [[[0.0, 0.0, 8.0, 10.0], [0.0, 0.0, 0.0, 0.0], [20.0, 0.0, 30.0, 10.0]]]
  more = ground_truth(rows, [[True, False, False]])
  np.testing.assert_allclose(losses(out, more), losses(out, truth), rtol=1e-6)
  keys = jax.random.split(jax.random.key(0), 1)
  few = [losses(out, rows, batch_size=2, keys=keys) for rows in (more, truth)]
  np.testing.assert_allclose(*few, rtol=1e-6)


@pytest.mark.parametrize("valid", [False, True])
def test_empty_ground_truth_is_finite(valid):
  """No ground truth at all, and (broken) ground truth without area."""
  truth = ground_truth(np.zeros((1, 2, 4)), np.full((1, 2), valid))

  def total(logits, deltas):
    return sum(losses(outputs(logits, deltas), truth))

  value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(
    jnp.zeros((1, 4)), jnp.full((1, 4, 4), 0.1)
  )
  assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
  if not valid:
    assert float(value) == pytest.approx(4 * np.log(2) / 8, rel=1e-6)
    np.testing.assert_array_equal(gradients[1], 0)


def teacher_losses(out, truth, boxes, valid=None, below=0.5, regression=True):
  boxes = jnp.asarray(boxes, jnp.float32)
  valid = jnp.ones(boxes.shape[:2], bool) if valid is None else jnp.asarray(valid)
  config = ml_collections.ConfigDict(options(8).to_dict())
  config.teacher_boxes.update(below=below, regression=regression)
  regions = Regions(boxes=boxes, embeddings=jnp.zeros((*boxes.shape[:2], 2)), valid=valid)
  return jax.jit(lambda *args: rpn_losses(*args, None, config, regions))(out, truth)


TRUTH = ground_truth([[[0.0, 0.0, 8.0, 10.0]]])
LOGITS = [[2.0, 0.0, 1.0, -1.0]]


@pytest.mark.parametrize("regression", [True, False])
def test_teacher_boxes_are_foreground_by_hand(regression):
  """Anchor 2 has the IoU 0.8 with the teacher's box; the annotated box keeps anchor 0."""
  found = teacher_losses(outputs(LOGITS), TRUTH, [[[22.0, 0.0, 30.0, 10.0]]], regression=regression)
  objectness = np.log1p(np.exp(-2)) + np.log(2) + np.log1p(np.exp(-1)) + np.log1p(np.exp(-1))
  assert float(found[0]) == pytest.approx(objectness / 8, rel=1e-6)
  one = 0.1 - np.log(0.8)  # |dx| and |dw|, for each of the two
  assert float(found[1]) == pytest.approx((1 + regression) * one / 8, rel=1e-5)


def test_teacher_boxes_near_an_annotated_one_padded_or_without_area_are_none():
  plain = losses(outputs(LOGITS), TRUTH)
  near = [[[0.0, 0.0, 10.0, 10.0]]]  # IoU 0.8 with the annotated box
  far = [[[20.0, 0.0, 30.0, 10.0]]]
  np.testing.assert_array_equal(teacher_losses(outputs(LOGITS), TRUTH, near), plain)
  np.testing.assert_array_equal(teacher_losses(outputs(LOGITS), TRUTH, near, below=0.8), plain)
  np.testing.assert_array_equal(teacher_losses(outputs(LOGITS), TRUTH, far, [[False]]), plain)
  np.testing.assert_array_equal(teacher_losses(outputs(LOGITS), TRUTH, far, below=0.0), plain)
  # A box without area has the IoU 0 with everything and claims nothing.
  np.testing.assert_array_equal(teacher_losses(outputs(LOGITS), TRUTH, [[[5.0] * 4]]), plain)
  assert teacher_losses(outputs(LOGITS), TRUTH, far)[0] != plain[0]
  # Padded ground truth hides no teacher box.
  padded = ground_truth([[[0.0, 0.0, 8.0, 10.0], [20.0, 0.0, 30.0, 10.0]]], [[True, False]])
  np.testing.assert_allclose(
    teacher_losses(outputs(LOGITS), padded, far),
    teacher_losses(outputs(LOGITS), TRUTH, far),
    rtol=1e-6,
  )


def test_an_anchor_of_an_annotated_box_is_regressed_to_that():
  """Of IoU 0.8 with the annotated box and 0.9 with the teacher's."""
  found = teacher_losses(outputs(LOGITS), TRUTH, [[[0.0, 0.0, 10.0, 9.0]]], below=0.9)
  np.testing.assert_array_equal(found, losses(outputs(LOGITS), TRUTH))


def test_anchors_that_a_teacher_box_half_covers_are_neither():
  """It claims anchor 2 (IoU 0.6), the best it has; anchor 1 (0.3) is left out of the background."""
  boxes = [[[17.0, 0.0, 30.0, 10.0]]]  # 3/20 with anchor 1, 10/13 with anchor 2
  whole = teacher_losses(outputs([[2.0, 50.0, 0.0, -1.0]]), TRUTH, boxes)
  assert float(whole[0]) > 50 / 8  # anchor 1 is background
  boxes = [[[14.0, 0.0, 30.0, 10.0]]]  # 6/20 with anchor 1, 10/16 with anchor 2
  half = teacher_losses(outputs([[2.0, 50.0, 0.0, -1.0]]), TRUTH, boxes)
  expected = np.log1p(np.exp(-2)) + np.log(2) + np.log1p(np.exp(-1))
  assert float(half[0]) == pytest.approx(expected / 8, rel=1e-6)
  # Nor does it claim what it hardly meets, 25/400 of every anchor here.
  small = teacher_losses(outputs(LOGITS), TRUTH, [[[22.0, 2.0, 24.5, 4.5]]])
  np.testing.assert_array_equal(small, losses(outputs(LOGITS), TRUTH))


def test_teacher_boxes_without_regions_are_refused():
  config = ml_collections.ConfigDict(options(8).to_dict())
  config.teacher_boxes.below = 0.5
  with pytest.raises(
    ValueError, match=r"teacher_boxes\.below is 0\.5, but box batches have no reg"
  ):
    rpn_losses(outputs(LOGITS), TRUTH, None, config)


def test_configs_of_before_have_no_teacher_boxes():
  config = ml_collections.ConfigDict(options(8).to_dict())
  del config["teacher_boxes"]
  found = jax.jit(lambda *args: rpn_losses(*args, None, config))(outputs(LOGITS), TRUTH)
  np.testing.assert_array_equal(found, losses(outputs(LOGITS), TRUTH))
