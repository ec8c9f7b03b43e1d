"""What classes with little evidence fall back to, and the file of a run."""

import json

import numpy as np
import pytest

from rkd_jax.evaluation.calibration.thresholds import load_thresholds, save_thresholds


def content(**classes):
  """All: precision 0.5 at 0.2, 0.7 at 0.4, never 0.9; F1 at 0.3."""

  def points(*scores):
    keys = ("0.5", "0.7", "0.9", "f1")
    return {k: None if s is None else {"score": s} for k, s in zip(keys, scores, strict=True)}

  def entry(objects, hits, *scores):
    return {"objects": objects, "hits": hits, "points": points(*scores)}

  each = {name: entry(*own) for name, own in classes.items()}
  return {"split": "s/validation", "all": entry(99, 60, 0.2, 0.4, None, 0.3), "classes": each}


@pytest.fixture
def thresholds(tmp_path):
  points = content(
    cat=(20, 15, 0.1, 0.5, 0.8, 0.25),
    dog=(20, 15, 0.45, None, None, 0.35),  # never reaches 0.7
    owl=(5, 5, 0.1, 0.1, 0.1, 0.1),  # too few objects
    bee=(50, 3, 0.1, 0.1, 0.1, 0.1),  # too few hits
  )
  save_thresholds(tmp_path, 300, points)
  return load_thresholds(tmp_path)


@pytest.mark.parametrize(
  "precision, expected",
  [
    (0.5, [0.1, 0.45, 0.2, 0.2, 0.2]),
    (0.7, [0.5, 0.4, 0.4, 0.4, 0.4]),
    (0.9, [0.8, 0.35, 0.3, 0.3, 0.3]),  # all together never reach it: F1's
    ("f1", [0.25, 0.35, 0.3, 0.3, 0.3]),
  ],
)
def test_a_class_with_little_evidence_takes_the_threshold_over_all(thresholds, precision, expected):
  found = thresholds.threshold_for(["cat", "dog", "owl", "bee", "unheard of"], precision)
  np.testing.assert_allclose(found, expected)
  assert (thresholds.step, thresholds.split) == (300, "s/validation")


def test_other_precisions_and_runs_without_a_hit_are_refused(thresholds, tmp_path):
  with pytest.raises(ValueError, match=r"precision 0\.5, 0\.7, 0\.9 and 'f1', not 0.6"):
    thresholds.threshold_for(["cat"], 0.6)
  nothing = content()
  nothing["all"]["points"] = dict.fromkeys(nothing["all"]["points"])
  save_thresholds(tmp_path, 300, nothing)
  with pytest.raises(ValueError, match="no detection of step 300 was right"):
    load_thresholds(tmp_path).threshold_for(["cat"])


def test_a_missing_or_damaged_file_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match=r"thresholds.json is missing: .* --calibrate"):
    load_thresholds(tmp_path)
  for text in ("{", "[]", json.dumps({"step": 1, "split": "s", "all": {}, "classes": {}})):
    (tmp_path / "thresholds.json").write_text(text)
    with pytest.raises(ValueError, match=r"is damaged .* again with --calibrate"):
      load_thresholds(tmp_path)


PROBABILITY = {"slope": 2.0, "bias": -1.0, "classes": {"cat": 0.5, "dog": -3.0}}


def test_probabilities_are_those_of_the_words(tmp_path):
  save_thresholds(tmp_path, 300, content() | {"probability": PROBABILITY})
  scores, classes = np.array([0.2, 0.9, 0.5], np.float32), np.array([1, 0, 2])
  found = load_thresholds(tmp_path).probability(["dog", "cat", "unheard of"], scores, classes)
  for own, score, bias in zip(found, scores.tolist(), (0.5, -3.0, -1.0)):
    assert own == pytest.approx(1 / (1 + (score / (1 - score)) ** -2.0 * np.exp(-bias)), abs=1e-12)


def test_files_of_earlier_versions_have_thresholds_but_no_probabilities(thresholds):
  with pytest.raises(ValueError, match=r"earlier version, without probabilities: .* --calibrate"):
    thresholds.probability(["cat"], np.array([0.5]), np.array([0]))


@pytest.mark.parametrize(
  "wrong",
  [[], {"slope": 0.0}, {"slope": "1"}, {"bias": float("nan")}, {"classes": {"cat": None}}],
)
def test_damaged_probabilities_say_what_to_do(tmp_path, wrong):
  probability = PROBABILITY | wrong if isinstance(wrong, dict) else wrong
  save_thresholds(tmp_path, 300, content() | {"probability": probability})
  with pytest.raises(ValueError, match=r"thresholds\.json is damaged .* again with --calibrate"):
    load_thresholds(tmp_path)
