from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.ops import boxes as box_ops

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_ops.npz")
WEIGHTS = {"rpn": box_ops.RPN_WEIGHTS, "roi": box_ops.ROI_WEIGHTS}


def test_iou_by_hand():
  a = jnp.array([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 5.0, 9.0]])
  b = jnp.array([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]])
  iou = box_ops.pairwise_iou(a, b)
  np.testing.assert_allclose(iou, [[1 / 7, 1, 0], [0, 0, 0]], rtol=1e-6)


def test_iou_of_empty_boxes_is_zero_with_finite_gradient():
  empty = jnp.zeros((2, 4))
  np.testing.assert_array_equal(box_ops.pairwise_iou(empty, empty), np.zeros((2, 2)))
  gradient = jax.jit(jax.grad(lambda b: jnp.sum(box_ops.pairwise_iou(b, b))))(empty)
  assert np.all(np.isfinite(gradient))


def test_iou_golden():
  iou = box_ops.pairwise_iou(GOLDEN["mt_gt"], GOLDEN["mt_anchors"])
  np.testing.assert_allclose(iou, GOLDEN["mt_iou"], atol=1e-6)


def test_clip_takes_height_and_width():
  boxes = jnp.array([[-3.0, -4.0, 30.0, 40.0], [5.0, 6.0, 7.0, 8.0]])
  expected = [[0, 0, 20, 10], [5, 6, 7, 8]]
  np.testing.assert_array_equal(box_ops.clip(boxes, (10, 20)), expected)
  np.testing.assert_array_equal(box_ops.clip(boxes, jnp.array([10, 20])), expected)


def test_is_nonempty_is_strict():
  boxes = jnp.array([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 2.0, 5.0], [0.0, 3.0, 5.0, 2.0]])
  np.testing.assert_array_equal(box_ops.is_nonempty(boxes), [True, False, False])


@pytest.mark.parametrize("kind", ["rpn", "roi"])
def test_encode_and_decode_golden(kind):
  src, weights = jnp.asarray(GOLDEN["bt_src"]), WEIGHTS[kind]
  deltas = box_ops.encode(jnp.asarray(GOLDEN["bt_tgt"]), src, weights)
  np.testing.assert_allclose(deltas, GOLDEN[f"bt_encode_{kind}"], rtol=1e-5, atol=1e-5)
  decoded = box_ops.decode(jnp.asarray(GOLDEN["bt_deltas_in"]), src, weights)
  np.testing.assert_allclose(decoded, GOLDEN[f"bt_decode_{kind}"], rtol=1e-5, atol=1e-4)


def test_decode_clamps_growth_but_not_shrinkage():
  assert pytest.approx(float(GOLDEN["bt_scale_clamp"])) == box_ops.MAX_LOG_SCALE
  reference = jnp.array([[0.0, 0.0, 16.0, 16.0]] * 2)
  deltas = jnp.array([[0.0, 0.0, 50.0, 50.0], [0.0, 0.0, -50.0, -50.0]])
  grown, shrunk = box_ops.decode(deltas, reference, box_ops.RPN_WEIGHTS)
  np.testing.assert_allclose(grown, [-492, -492, 508, 508], rtol=1e-5)
  np.testing.assert_allclose(shrunk, [8, 8, 8, 8], atol=1e-6)


def test_encoding_padding_rows_is_finite():
  zeros = jnp.zeros((1, 4))
  boxes = jnp.array([[1.0, 2.0, 3.0, 4.0]])
  for a, b in [(zeros, zeros), (boxes, zeros), (zeros, boxes)]:
    assert np.all(np.isfinite(box_ops.encode(a, b, box_ops.ROI_WEIGHTS)))


def test_levels_golden():
  np.testing.assert_array_equal(
    box_ops.assign_levels(jnp.asarray(GOLDEN["lvl_boxes"])), GOLDEN["lvl_out"]
  )


def test_doubling_the_side_goes_one_level_up():
  side = jnp.array([0.0, 55.0, 111.0, 112.0, 224.0, 448.0, 5000.0])
  boxes = jnp.stack([jnp.zeros(7), jnp.zeros(7), side, side], axis=1)
  np.testing.assert_array_equal(box_ops.assign_levels(boxes), [0, 0, 0, 1, 2, 3, 3])


def test_levels_of_other_pyramids():
  boxes = jnp.array([[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 300.0, 300.0], [0.0, 0.0, 900.0, 900.0]])
  np.testing.assert_array_equal(box_ops.assign_levels(boxes, 3, 5), [0, 1, 2])
