"""RoIs sampled for training and detections, by hand."""

import jax
import ml_collections
import numpy as np

from rkd_jax.models.detector import rois
from rkd_jax.structures import GroundTruth, Proposals


def _proposals(*boxes):
  boxes = np.array([boxes], np.float32)
  count = boxes.shape[:2]
  return Proposals(boxes, np.zeros(count, np.float32), np.ones(count, bool))


def test_samples_are_matched_and_the_truth_is_among_them():
  """A proposal near the truth, one off it, and a second truth that is only padding."""
  proposals = _proposals([0, 0, 10, 9], [50, 50, 60, 60])
  truth = GroundTruth(
    boxes=np.array([[[0, 0, 10, 10], [50, 50, 60, 60]]], np.float32),
    classes=np.array([[3, 4]]),
    valid=np.array([[True, False]]),
  )
  config = ml_collections.FrozenConfigDict(
    {"iou_threshold": 0.5, "batch_size_per_image": 4, "positive_fraction": 0.5}
  )
  found = jax.jit(lambda: rois.sample(proposals, truth, None, 7, config))()
  assert found.valid.tolist() == [[True, True, True, False]]
  assert found.classes[0, :3].tolist() == [3, 3, 7]
  np.testing.assert_array_equal(
    found.boxes[0, :3], [[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]]
  )
  np.testing.assert_array_equal(found.gt_boxes[0, :2], [[0, 0, 10, 10]] * 2)


def test_rois_know_when_they_are_matched_to_a_pseudo_label():
  """One proposal on an annotated box, one on a pseudo label, one on neither."""
  proposals = _proposals([0, 0, 10, 9], [50, 50, 60, 59], [80, 80, 90, 90])
  truth = GroundTruth(
    boxes=np.array([[[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]]], np.float32),
    classes=np.array([[3, 4, 5]]),
    valid=np.array([[True, True, False]]),
    pseudo=np.array([[False, True, True]]),
  )
  config = ml_collections.FrozenConfigDict(
    {"iou_threshold": 0.5, "batch_size_per_image": 6, "positive_fraction": 0.75}
  )
  found = jax.jit(lambda: rois.sample(proposals, truth, None, 7, config))()
  assert found.classes[0].tolist()[:5] == [3, 4, 3, 4, 7]
  assert found.pseudo[0].tolist() == [False, True, False, True, False, False]
  assert found.valid[0].tolist() == [True] * 5 + [False]
  plain = jax.jit(lambda: rois.sample(proposals, truth.replace(pseudo=None), None, 7, config))()
  assert plain.pseudo is None
  np.testing.assert_array_equal(plain.classes, found.classes)


def test_detections_are_suppressed_within_a_class_alone():
  """Two boxes that overlap: of class 0 the better one stays, of class 1 only one is there."""
  proposals = _proposals([0, 0, 10, 10], [0, 0, 10, 11])
  logits = np.array([[[2.0, -9.0, 0.0], [1.0, 3.0, 0.0]]], np.float32)
  config = ml_collections.FrozenConfigDict(
    {"score_threshold": 0.1, "candidates": 4, "detections": 3, "nms_threshold": 0.5}
  )
  sizes, deltas = np.array([[8, 20]]), np.zeros((1, 2, 4), np.float32)
  found = jax.jit(lambda: rois.detections(proposals, logits, deltas, sizes, config))()
  assert found.valid.tolist() == [[True, True, False]]
  assert found.classes[0, :2].tolist() == [1, 0] and found.rois[0, :2].tolist() == [1, 0]
  np.testing.assert_allclose(found.scores[0, :2], 1 / (1 + np.exp([-3.0, -2.0])), rtol=1e-5)
  np.testing.assert_array_equal(found.boxes[0, :2], [[0, 0, 10, 8]] * 2)
