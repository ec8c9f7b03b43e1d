"""What proposers take, and how well boxes cover the truth."""

import numpy as np
import pytest

from rkd_jax.teachers.proposals import checked_images, recalled


@pytest.mark.parametrize(
  "images",
  [
    np.zeros((8, 8, 3), np.uint8),
    np.zeros((1, 8, 8, 1), np.uint8),
    np.zeros((1, 8, 8, 3), np.float32),
  ],
)
def test_other_arrays_than_batches_of_rgb_are_refused(images):
  with pytest.raises(ValueError, match=r"uint8 images \[n, h, w, 3\]"):
    checked_images(images)


def test_recalled_counts_each_true_box_of_each_image():
  box, far = [0, 0, 10, 10], [50, 50, 60, 60]
  truth = [np.array([box, far], np.float32), np.array([box], np.float32)]
  proposed = [np.array([[0, 0, 10, 8]], np.float32), np.zeros((0, 4), np.float32)]
  assert recalled(proposed, truth).tolist() == [True, False, False]
  assert recalled(proposed, truth, threshold=0.9).tolist() == [False, False, False]
