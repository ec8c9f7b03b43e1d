"""What proposers take."""

import numpy as np
import pytest

from rkd_jax.teachers.proposals import check_image


@pytest.mark.parametrize(
  "image",
  [
    np.zeros((1, 8, 8, 3), np.uint8),
    np.zeros((8, 8, 1), np.uint8),
    np.zeros((8, 8, 3), np.float32),
  ],
)
def test_other_arrays_than_rgb_images_are_refused(image):
  with pytest.raises(ValueError, match=r"uint8 image \[h, w, 3\]"):
    check_image(image)
