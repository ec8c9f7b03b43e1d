"""What evaluators refuse: splits, images and arrays that cannot be right."""

import numpy as np
import pytest
from made_records import make_record

from rkd_jax.evaluation.checks import check_image, mean_of_counted

TRUTH = {"boxes": np.array([[0, 0, 10, 10]], np.float32), "classes": np.array([0])}
FOUND = {**TRUTH, "scores": np.array([0.9])}


def _check(truth=TRUTH, found=FOUND, seen=()):
  return check_image(make_record(0, image_id=7, height=100, width=100, **truth), found, seen, 5)


@pytest.mark.parametrize(
  ("of", "key", "value", "message"),
  [
    (1, "boxes", np.array([[0, 0, np.nan, 1]]), "image 7, detections: boxes are not finite"),
    (1, "scores", np.array([np.inf]), "image 7, detections: scores are not finite"),
    (0, "boxes", np.array([[0, 0, np.inf, 1]]), "image 7, ground truth: boxes are not finite"),
    (1, "scores", np.array([0.5, 0.4]), r"scores have shape \(2,\), expected \(1,\)"),
    (1, "classes", np.array([5]), r"classes span 5..5, expected 0..4"),
  ],
)
def test_bad_arrays_name_the_image(of, key, value, message):
  arrays = [dict(TRUTH), dict(FOUND)]
  arrays[of][key] = value
  with pytest.raises(ValueError, match=message):
    _check(*arrays)


def test_an_image_is_added_once():
  image_id, truth, found = _check(seen=(6, 8))
  assert image_id == 7 and truth["classes"].dtype == np.int64 and found["scores"] == [0.9]
  with pytest.raises(ValueError, match="image 7 was added twice"):
    _check(seen=(7,))


def test_the_mean_is_over_what_is_defined():
  assert mean_of_counted([1.0, None, 4.0]) == 2.5
  assert mean_of_counted([None]) is None
