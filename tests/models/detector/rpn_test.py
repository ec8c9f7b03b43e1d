import functools

import jax
import jax.numpy as jnp
import numpy as np

from rkd_jax.models.detector import rpn
from rkd_jax.structures import RpnOutputs

SIZE = (50, 100)  # height, width


@functools.cache
def compiled(counts, pre_nms, post_nms):
  return jax.jit(lambda outputs, sizes: rpn.propose(outputs, counts, sizes, pre_nms, post_nms, 0.7))


def propose(anchors, logits, deltas=None, counts=None, anchor_valid=True, pre_nms=10, post_nms=4):
  anchors, logits = np.asarray(anchors, np.float32), np.asarray(logits, np.float32)
  deltas = np.zeros_like(anchors) if deltas is None else np.asarray(deltas, np.float32)
  anchor_valid = np.broadcast_to(anchor_valid, (1, len(anchors)))
  outputs = RpnOutputs(
    anchors=anchors, logits=logits[None], deltas=deltas[None], valid=anchor_valid
  )
  run = compiled(counts or (len(anchors),), pre_nms, post_nms)
  proposals = run(outputs, np.array([SIZE]))
  valid = np.asarray(proposals.valid[0])
  assert valid.shape == (post_nms,)
  # Padding rows are zero and come last.
  assert np.all(np.diff(valid.astype(int)) <= 0)
  assert np.all(proposals.boxes[0][~valid] == 0) and np.all(proposals.logits[0][~valid] == 0)
  return np.asarray(proposals.boxes[0])[valid], np.asarray(proposals.logits[0])[valid]


def test_order_clip_and_nms():
  """By hand: the second box is suppressed by the third (IoU 0.9), the fourth is clipped."""
  anchors = [[0, 0, 10, 10], [20, 20, 30, 29], [20, 20, 30, 30], [-10, 30, 20, 60]]
  boxes, logits = propose(anchors, [-1.0, 2.0, 3.0, 5.0])
  np.testing.assert_allclose(boxes, [[0, 30, 20, 50], [20, 20, 30, 30], [0, 0, 10, 10]], atol=1e-4)
  np.testing.assert_allclose(logits, [5, 3, -1])


def test_deltas_move_the_anchor():
  """dx in widths, dw in logarithms, weights 1; the growth is clamped."""
  boxes, _ = propose([[10, 10, 20, 20]], [0.0], [[0.5, 0, np.log(2), 0]])
  np.testing.assert_allclose(boxes, [[10, 10, 30, 20]], atol=1e-4)
  boxes, _ = propose([[10, 10, 20, 20]], [0.0], [[0, 0, 80, 80]])
  np.testing.assert_allclose(boxes, [[0, 0, 100, 50]], atol=1e-4)


def test_boxes_that_leave_the_image_or_are_not_finite_are_dropped():
  anchors = [[10, 10, 20, 20]] * 3
  deltas = [[-5, 0, 0, 0], [np.nan, 0, 0, 0], [0, 0, 0, 0]]
  boxes, logits = propose(anchors, [9.0, 8.0, 7.0], deltas)
  np.testing.assert_allclose(boxes, [[10, 10, 20, 20]], atol=1e-4)
  np.testing.assert_allclose(logits, [7])
  assert len(propose(anchors[:1], [np.inf])[0]) == 0


def test_top_k_comes_before_nms_and_the_drop():
  """Two candidates per level: an empty one and a duplicate use them up."""
  anchors = [[10, 10, 20, 20], [10, 10, 20, 20], [40, 10, 50, 20]]
  boxes, _ = propose(anchors, [3.0, 2.0, 1.0], pre_nms=2)
  assert len(boxes) == 1
  assert len(propose(anchors, [3.0, 2.0, 1.0], pre_nms=3)[0]) == 2


def test_levels_share_the_output_but_not_nms():
  anchors = [[10, 10, 20, 20], [40, 10, 50, 20], [10, 10, 20, 20]]
  boxes, logits = propose(anchors, [1.0, 2.0, 3.0], counts=(2, 1))
  np.testing.assert_allclose(logits, [3, 2, 1])
  np.testing.assert_allclose(boxes[0], boxes[2])
  assert len(propose(anchors, [1.0, 2.0, 3.0], counts=(2, 1), post_nms=2)[0]) == 2
  assert len(propose(anchors, [1.0, 2.0, 3.0])[0]) == 2


def test_anchors_of_the_canvas_do_not_propose():
  """Not even where they reach into the image; their place in the top-k goes to others."""
  anchors = [[85, 10, 115, 20], [84, 10, 114, 20], [10, 10, 20, 20]]
  _, logits = propose(anchors, [9.0, 2.0, 1.0], anchor_valid=[False, True, True], pre_nms=2)
  np.testing.assert_allclose(logits, [2, 1])


def test_valid_anchors_are_those_of_the_image_alone():
  """A 48 x 100 image has 3 x 7 cells at stride 16 and 2 x 4 at stride 32; two anchors each."""
  features = [jnp.zeros((1, 4, 9, 3)), jnp.zeros((1, 2, 5, 3))]
  valid = rpn.valid_anchors(features, np.array([[48, 100]]), [16, 32], 2)
  fine, coarse = np.zeros((4, 9, 2), bool), np.zeros((2, 5, 2), bool)
  fine[:3, :7], coarse[:, :4] = True, True
  np.testing.assert_array_equal(valid[0], np.concatenate([fine.ravel(), coarse.ravel()]))


def test_no_gradient_through_proposals():
  anchors = jnp.array([[10.0, 10, 20, 20]])

  def total(logits, deltas):
    outputs = RpnOutputs(anchors=anchors, logits=logits, deltas=deltas, valid=np.ones((1, 1), bool))
    proposals = rpn.propose(outputs, [1], np.array([SIZE]), 1, 1, 0.7)
    return proposals.boxes.sum() + proposals.logits.sum()

  gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(
    np.ones((1, 1), np.float32), np.zeros((1, 1, 4), np.float32)
  )
  assert all(np.all(g == 0) for g in gradients)


def test_head_channel_order():
  """Anchors of a cell are fastest; channel a * 4 + k is coordinate k of anchor a."""
  count = 3
  head = rpn.RpnHead(channels=2, anchors_per_cell=count)
  features = np.random.default_rng(0).normal(size=(1, 2, 3, 2)).astype(np.float32)
  shapes = jax.eval_shape(head.init, jax.random.key(0), features)
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)["params"]
  # With zero kernels the outputs are the biases: they name their channel.
  for name, channels in (("objectness", count), ("deltas", 4 * count)):
    params[name]["bias"] = np.arange(channels, dtype=np.float32)
  logits, deltas = jax.jit(head.apply)({"params": params}, features)
  np.testing.assert_array_equal(logits[0], np.tile(np.arange(count), 6))
  expected = np.tile(np.arange(4 * count).reshape(count, 4), (6, 1))
  np.testing.assert_array_equal(deltas[0], expected)
