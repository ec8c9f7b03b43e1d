"""Overlaps, suppression and unit vectors in NumPy: by hand, and as the device computes them."""

import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.ops.boxes import pairwise_iou
from rkd_jax.ops.embeddings import l2_normalize
from rkd_jax.ops.host import covered, iou, suppress, unit

BOX = np.array([[0, 0, 10, 10]], np.float32)


def test_overlaps_by_hand():
  others = np.array([[0, 0, 10, 5], [5, 5, 25, 15], [10, 0, 20, 10], [3, 3, 3, 3]], np.float32)
  np.testing.assert_allclose(iou(BOX, others), [[0.5, 25 / 275, 0, 0]], rtol=1e-6)
  np.testing.assert_allclose(covered(BOX, others), [[0.5, 0.25, 0, 0]], rtol=1e-6)
  np.testing.assert_allclose(covered(others, BOX), [[1], [0.125], [0], [0]], rtol=1e-6)
  assert iou(others[3:], others[3:]).tolist() == [[0]]
  assert iou(BOX, others[:0]).shape == (1, 0) and covered(others[:0], BOX).shape == (0, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_is_that_of_the_boxes(dtype):
  rng = np.random.default_rng(0)
  low = rng.random((20, 2)) * 50
  boxes = np.concatenate([low, low + rng.random((20, 2)) * 50], axis=1).astype(dtype)
  found = iou(boxes, boxes[:7])
  assert found.dtype == covered(boxes, boxes).dtype == unit(boxes).dtype == dtype
  expected = pairwise_iou(boxes.astype(np.float32), boxes[:7].astype(np.float32))
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_suppression_by_hand():
  """IoU 3/7 of neighbours in a chain: what is suppressed suppresses nobody."""
  boxes = np.array([[4.0, 0, 14, 1], [0, 0, 10, 1], [8, 0, 18, 1], [0, 0, 10, 1]])
  overlaps = iou(boxes, boxes)
  assert suppress(overlaps, np.array([2.0, 3.0, 1.0, 3.0]), 0.4).tolist() == [1, 2]
  assert suppress(overlaps, np.array([2.0, 3.0, 1.0, 3.0]), overlaps[0, 1]).tolist() == [1, 0, 2]
  assert suppress(overlaps[:0, :0], np.zeros(0), 0.5).tolist() == []


def test_unit_vectors_are_those_of_the_device():
  x = np.array([[3, 4], [0, 0], [1e-3, 0]], np.float32)
  np.testing.assert_allclose(unit(x), l2_normalize(jnp.asarray(x)), atol=1e-7)
  np.testing.assert_allclose(unit(x[0]), [0.6, 0.8], rtol=1e-6)
