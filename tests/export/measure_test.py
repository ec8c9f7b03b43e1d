"""How far apart detections are, and the table; what is measured is tested with the command."""

import numpy as np

from rkd_jax.export.measure import Measured, furthest, table

BOXES = np.array([[0, 0, 4, 4], [1, 1, 9, 9]], np.float32)
CLASSES = np.array([0, 1])


def test_boxes_are_compared_in_any_order():
  assert furthest(BOXES, CLASSES, BOXES[::-1] + np.float32(0.5), CLASSES[::-1]) == 0.5
  assert furthest(BOXES[:0], CLASSES[:0], BOXES[:0], CLASSES[:0]) == 0


def test_other_classes_or_numbers_of_boxes_are_infinitely_far():
  assert furthest(BOXES, CLASSES, BOXES, CLASSES + 1) == np.inf
  assert furthest(BOXES, CLASSES, BOXES[:1], CLASSES[:1]) == np.inf


def test_rows_are_shown_in_milliseconds():
  lines = table([Measured("onnx", 12.34, 1.5, 0.0123, 7, 0.00001)]).splitlines()
  assert lines[1].split() == ["onnx", "12.3", "1.50", "12.3", "7", "0.00001"]
