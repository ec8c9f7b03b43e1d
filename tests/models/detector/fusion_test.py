"""Fusion of scores, against plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.models.detector import fusion
from rkd_jax.ops.host import unit


def _iou(a, b):
  width = min(a[2], b[2]) - max(a[0], b[0])
  height = min(a[3], b[3]) - max(a[1], b[1])
  shared = max(width, 0) * max(height, 0)
  areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
  return shared / (areas - shared) if areas > shared else 0.0


def test_the_mean_is_either_at_the_ends_and_between_them_elsewhere():
  rng = np.random.default_rng(0)
  s, p = rng.uniform(0, 1, (2, 5, 4)).astype(np.float32)
  s[0, 0] = p[1, 1] = 0
  ends = np.array(fusion.geometric_mean(s, p, np.array([0.0, 1, 0, 1], np.float32)))
  np.testing.assert_array_equal(ends[:, ::2], s[:, ::2])
  np.testing.assert_array_equal(ends[:, 1::2], p[:, 1::2])
  exponents = np.array([0.1, 0.35, 0.5, 0.9], np.float32)
  mean = np.array(fusion.geometric_mean(s, p, exponents))
  np.testing.assert_allclose(mean, s ** (1 - exponents) * p**exponents, rtol=1e-5)
  assert (mean >= np.minimum(s, p) - 1e-6).all() and (mean <= np.maximum(s, p) + 1e-6).all()


def test_scores_of_crops_are_a_softmax_over_the_classes_that_are_there():
  rng = np.random.default_rng(1)
  crops, classes = rng.normal(size=(2, 3, 6)), rng.normal(size=(5, 6))
  logits = 30 * unit(crops) @ unit(classes).T
  expected = np.exp(logits[..., :4]) / np.exp(logits[..., :4]).sum(-1, keepdims=True)
  valid = np.array([True] * 4 + [False])
  arrays = jnp.array(crops), jnp.array(classes)
  found = np.array(fusion.crop_scores(*arrays, 30.0, valid))
  np.testing.assert_allclose(found[..., :4], expected, rtol=1e-4, atol=1e-7)
  assert (found[..., 4] == 0).all()
  everything = np.array(fusion.crop_scores(*arrays, 30.0))
  np.testing.assert_allclose(everything.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 7, 40])
def test_crops_are_of_the_best_boxes_that_no_better_one_overlaps(count):
  rng = np.random.default_rng(count)
  boxes = rng.uniform(0, 60, (3, 30, 2))
  boxes = np.concatenate([boxes, boxes + rng.uniform(4, 40, (3, 30, 2))], -1).astype(np.float32)
  boxes[:, 3, 2] = boxes[:, 3, 0]  # empty
  scores = rng.uniform(0, 1, (3, 30, 4)).astype(np.float32)
  scores[:, 3] = 1
  valid = rng.uniform(0, 1, (3, 30)) < 0.8
  index, real, crop_of = map(np.array, fusion.choose_crops(boxes, scores, valid, count))
  for i in range(3):
    kept = []
    for box in np.argsort(-scores[i].max(-1), kind="stable"):
      alone = all(_iou(boxes[i, box], boxes[i, other]) <= 0.5 for other in kept)
      if valid[i, box] and box != 3 and alone and len(kept) < count:
        kept.append(int(box))
    assert index[i][real[i]].tolist() == kept
    for box in range(30):
      overlaps = [_iou(boxes[i, box], boxes[i, other]) for other in kept]
      best = int(np.argmax(overlaps))
      assert crop_of[i, box] == (best if overlaps[best] >= 0.5 else -1)


def test_a_box_without_a_crop_keeps_its_scores():
  scores = np.array([[[0.5, 0.2], [0.4, 0.1], [0.3, 0.9]]], np.float32)
  crops = np.array([[[0.8, 0.6], [0.1, 0.7]]], np.float32)
  fused = fusion.fuse_crops(scores, crops, np.array([[1, -1, 0]]), np.array([0.5, 1.0]))
  expected = [[[(0.5 * 0.1) ** 0.5, 0.7], [0.4, 0.1], [(0.3 * 0.8) ** 0.5, 0.6]]]
  np.testing.assert_allclose(fused, expected, rtol=1e-5)
