"""Operating points by hand."""

import numpy as np

from rkd_jax.evaluation.calibration.points import curve, operating_points

SCORES = np.array([0.9, 0.8, 0.8, 0.6, 0.5, 0.4])
HITS = np.array([True, True, False, True, False, False])


def test_the_curve_has_a_point_for_each_score():
  """Hits 1, 2, 3, 3, 3 of 1, 3, 4, 5, 6 detections; four objects."""
  own = curve(SCORES[::-1], HITS[::-1], 4)
  np.testing.assert_array_equal(own.scores, [0.9, 0.8, 0.6, 0.5, 0.4])
  np.testing.assert_allclose(own.precision, [1, 2 / 3, 3 / 4, 3 / 5, 1 / 2])
  np.testing.assert_allclose(own.recall, [1 / 4, 1 / 2, 3 / 4, 3 / 4, 3 / 4])
  np.testing.assert_allclose(own.f1, [2 / 5, 4 / 7, 6 / 8, 6 / 9, 6 / 10])


def test_thresholds_are_the_smallest_scores_that_reach_a_precision():
  found = operating_points(curve(SCORES, HITS, 4))
  assert {key: own["score"] for key, own in found["points"].items()} == {
    "0.5": 0.4,
    "0.7": 0.6,  # though 2/3 at 0.8 is below
    "0.9": 0.9,
    "f1": 0.6,
  }
  assert found["points"]["0.7"] == {
    "score": 0.6,
    "precision": 0.75,
    "recall": 0.75,
    "detections": 4,
  }
  assert (found["objects"], found["detections"], found["hits"]) == (4, 6, 3)


def test_what_is_never_reached_has_no_threshold():
  found = operating_points(curve(np.array([0.9, 0.8, 0.7]), np.array([False, True, False]), 1))
  assert found["points"]["0.7"] is None and found["points"]["0.5"]["score"] == 0.8
  for nothing in (
    curve(np.zeros(0), np.zeros(0, bool), 3),
    curve(np.array([0.5]), np.array([False]), 0),
  ):
    assert set(operating_points(nothing)["points"].values()) == {None}
