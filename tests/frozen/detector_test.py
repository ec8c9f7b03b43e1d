"""A trained detector ready for use."""

import numpy as np
from pycocotools import mask as coco_mask

from rkd_jax.frozen.detector import encode_masks


def test_masks_are_encoded_where_their_boxes_lie():
  """Left half of a box, then a probability of exactly 0.5 in all of a box at the border."""
  masks = np.zeros((3, 4, 4), np.float32)
  masks[0, :, :2] = 1
  masks[1] = 0.5
  boxes = np.array([[2, 1, 10, 5], [8, 2, 12, 6], [0, 0, 3, 3]], np.float32)
  runs = encode_masks(masks, boxes, 6, 12)
  assert all(run["size"] == [6, 12] and isinstance(run["counts"], str) for run in runs)
  left, even, nothing = coco_mask.decode(runs).transpose(2, 0, 1).astype(bool)
  assert left[1:5, 2:6].all() and left.sum() == 16
  # A cell for each pixel: what is read at its centre is the cell itself.
  assert even[2:6, 8:12].all() and even.sum() == 16
  assert not nothing.any()
  assert encode_masks(masks[:0], boxes[:0], 6, 12) == []
