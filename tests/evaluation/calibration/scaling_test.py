"""Probabilities: what is drawn from known ones is found again, and no evidence harms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rkd_jax.evaluation.calibration.scaling import (
  BINS,
  Scaling,
  compared,
  fit,
  logits,
  quality,
  reliability,
)

SLOPE, BIASES = 1.7, np.array([-2.0, 0.5, -1.0, -0.4])


def drawn(count, seed=0, slope=SLOPE, biases=BIASES):
  """Scores, classes and hits of detections whose chances are known."""
  rng = np.random.default_rng(seed)
  scores = 1 / (1 + np.exp(-rng.normal(-0.5, 1.5, count)))
  classes = rng.integers(len(biases), size=count)
  odds = (scores / (1 - scores)) ** slope * np.exp(biases[classes])
  return scores, classes, rng.random(count) < odds / (1 + odds)


def value(scores, classes, hits, a, b, biases):
  """What is made least, a detection at a time."""
  total = b**2 / 2 + a - 1 - np.log(a) + sum((own - b) ** 2 / 2 for own in biases)
  for score, number, hit in zip(scores, classes, hits):
    p = 1 / (1 + np.exp(-(a * np.log(score / (1 - score)) + biases[number])))
    total -= np.log(p if hit else 1 - p)
  return total


def test_known_parameters_are_found_again():
  """Their standard errors are some 0.01 and 0.02 with so many detections."""
  scores, classes, hits = drawn(100_000)
  found = fit(scores, classes, hits, 4)
  assert found.slope == pytest.approx(SLOPE, abs=0.04)
  np.testing.assert_allclose(found.biases, BIASES, atol=0.08)


def test_what_is_found_is_the_least():
  scores, classes, hits = drawn(60, seed=1)
  found = fit(scores, classes, hits, 4)
  point = np.array([found.slope, found.bias, *found.biases])

  def at(point):
    return value(scores, classes, hits, point[0], point[1], point[2:])

  for axis in np.eye(6):
    slope = (at(point + 1e-4 * axis) - at(point - 1e-4 * axis)) / 2e-4
    assert abs(slope) < 1e-5
    assert at(point + 0.01 * axis) > at(point) < at(point - 0.01 * axis)


def test_a_class_with_little_evidence_stays_near_the_others():
  """A class of chance 1/2 says for itself 'always' or 'never' after one detection."""
  scores, classes, hits = drawn(3_000, biases=np.array([-1.0, -1.0]))
  scores, classes, hits = np.append(scores, 0.7), np.append(classes, 3), np.append(hits, False)
  found = fit(scores, classes, hits, 5)
  assert found.biases[2] == found.biases[4] == found.bias
  assert found.bias - 1 < found.biases[3] < found.bias - 0.1


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_the_order_of_detections_changes_nothing(seed, count):
  columns = drawn(count, seed)
  order = np.random.default_rng(seed).permutation(count)
  found, again = fit(*columns, 4), fit(*(column[order] for column in columns), 4)
  assert (found.slope, found.bias) == (again.slope, again.bias)
  np.testing.assert_array_equal(found.biases, again.biases)
  chances = found(*columns[:2])
  assert quality(chances, columns[2]) == quality(chances[order], columns[2][order])


@pytest.mark.parametrize("hits", ["all", "none", "the worst"])
def test_the_order_within_a_class_is_kept_whatever_is_hit(hits):
  rng = np.random.default_rng(0)
  scores, classes = np.sort(rng.random(500).astype(np.float32)), rng.integers(3, size=500)
  scores[0], scores[-1] = 0.0, 1.0
  right = {"all": scores >= 0, "none": scores < 0, "the worst": scores < 0.5}[hits]
  found = fit(scores, classes, right, 3)
  assert found.slope > 0 and np.isfinite([found.slope, found.bias, *found.biases]).all()
  for number in range(3):
    assert (np.diff(logits(scores[classes == number])) > 0).all()
    chances = found(scores[classes == number], classes[classes == number])
    assert (np.diff(chances) > 0).all() and 0 <= chances[0] < chances[-1] <= 1


@pytest.mark.parametrize("hit", [True, False])
def test_one_detection_moves_little_and_none_nothing(hit):
  one = fit(np.array([0.5]), np.array([1]), np.array([hit]), 3)
  # b_c = 2 b and b = 1 - p (or -p), where p = sigmoid(b_c).
  b = one.bias
  assert one.slope == pytest.approx(1) and one.biases[1] == pytest.approx(2 * b)
  assert b == pytest.approx(hit - 1 / (1 + np.exp(-2 * b)), abs=1e-9)
  none = fit(np.zeros(0), np.zeros(0, int), np.zeros(0, bool), 3)
  assert (none.slope, none.bias, none.biases.tolist()) == (1.0, 0.0, [0.0] * 3)
  scores = np.array([0.25, 0.75])
  np.testing.assert_allclose(none(scores, np.array([0, 2])), scores)


def test_bins_have_equally_many_detections():
  rng = np.random.default_rng(0)
  chances = rng.random(4 * BINS)
  hits = rng.random(4 * BINS) < chances
  order = np.argsort(chances)
  mean, part, counts = reliability(chances, hits)
  assert counts.tolist() == [4] * BINS
  errors, squares = 0.0, 0.0
  for k in range(BINS):
    own = order[4 * k : 4 * k + 4]
    assert mean[k] == pytest.approx(sum(chances[own]) / 4)
    assert part[k] == pytest.approx(sum(hits[own]) / 4)
    errors += abs(sum(chances[own]) - sum(hits[own]))
    squares += sum((chances[i] - hits[i]) ** 2 for i in own)
  assert quality(chances, hits) == {
    "ece": pytest.approx(errors / len(hits)),
    "brier": pytest.approx(squares / len(hits)),
  }


def test_equal_chances_share_a_bin():
  hits = np.arange(60) < 15
  mean, part, counts = reliability(np.full(60, 0.25), hits)
  assert (mean.tolist(), part.tolist(), counts.tolist()) == ([0.25], [0.25], [60])
  assert quality(np.full(60, 0.25), hits)["ece"] == 0
  assert quality(np.zeros(0), np.zeros(0, bool)) == {"ece": None, "brier": None}


def test_calibrated_scores_of_other_images_are_better():
  found = fit(*drawn(5_000, seed=1), 4)
  scores, classes, hits = drawn(5_000, seed=2)
  worth = compared(scores, found(scores, classes), hits)
  assert worth["detections"] == 5_000
  assert worth["after"]["ece"] < 0.03 < 0.09 < worth["before"]["ece"]
  truth = Scaling(SLOPE, 0.0, BIASES)(scores, classes)
  assert quality(truth, hits)["brier"] == pytest.approx(worth["after"]["brier"], abs=0.002)
  assert worth["after"]["brier"] < worth["before"]["brier"]
