"""Operating points by hand, what they fall back to, and the file of a run."""

import dataclasses
import json

import numpy as np
import pytest
from made_records import make_record
from shares import check_shares_add_up

from rkd_jax.evaluation import calibration
from rkd_jax.evaluation.calibration import Calibrator, curve, load_thresholds, operating_points

NAMES = ("cat", "dog", "owl", "bee", "fox")
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


def image(image_id, objects, detections):
  """What `add` takes, of objects (x1, y1, x2, y2, class[, crowd]) and detections (.., score)."""
  objects = np.array([(*row, 0)[:6] for row in objects], np.float32)
  rows = np.array(detections, np.float32)
  record = make_record(
    0,
    image_id=image_id,
    boxes=objects[:, :4],
    classes=objects[:, 4].astype(np.int32),
    is_crowd=objects[:, 5] > 0,
  )
  return record, {"boxes": rows[:, :4], "classes": rows[:, 4].astype(int), "scores": rows[:, 5]}


def calibrated(*images):
  own = Calibrator(NAMES, ("cat", "dog", "owl"))
  for record, found in images:
    own.add(record, found)
  return own


CAT, DOG, AWAY = (0, 0, 10, 10, 0), (20, 20, 40, 40, 1), (60, 60, 80, 80)
ONE = image(1, [CAT, DOG], [(*CAT, 0.9), (*DOG, 0.7), (*AWAY, 0, 0.6), (*AWAY, 4, 0.99)])
TWO = image(2, [CAT, (50, 50, 90, 90, 0, 1)], [(*CAT, 0.5), (*AWAY, 0, 0.8), (*AWAY, 1, 0.3)])


def test_classes_are_counted_on_their_own_and_together():
  """A cat in a crowd and a class without annotations count nowhere."""
  content = calibrated(ONE, TWO).compute()
  cat, dog, owl = (content["classes"][name] for name in ("cat", "dog", "owl"))
  assert (cat["objects"], cat["detections"], cat["hits"]) == (2, 3, 2)
  assert cat["points"]["0.5"]["score"] == pytest.approx(0.5)
  assert cat["points"]["0.7"]["score"] == pytest.approx(0.9)
  assert (dog["objects"], dog["detections"], dog["hits"]) == (1, 2, 1)
  assert owl["points"]["f1"] is None and "fox" not in content["classes"]
  assert (content["all"]["objects"], content["all"]["detections"]) == (3, 5)
  assert content["all"]["points"]["0.7"]["score"] == pytest.approx(0.5)  # 3 of 4
  assert content["vocabulary"] == list(NAMES) and content["images"] == 2


def test_shares_of_processes_add_up():
  records = [(dataclasses.replace(ONE[0], image_id=i), ONE[1]) for i in range(5)]
  check_shares_add_up(calibrated, [TWO, *records[3:], *records[:2]])


def test_an_image_twice_and_no_image_are_errors():
  with pytest.raises(ValueError, match="added twice"):
    own = calibrated(ONE)
    own.merge(calibrated(ONE))
  with pytest.raises(ValueError, match="nothing to calibrate"):
    calibrated().compute()


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
  calibration.save_thresholds(tmp_path, 300, points)
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
  calibration.save_thresholds(tmp_path, 300, nothing)
  with pytest.raises(ValueError, match="no detection of step 300 was right"):
    load_thresholds(tmp_path).threshold_for(["cat"])


def test_a_missing_or_damaged_file_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match=r"thresholds.json is missing: .* --calibrate"):
    load_thresholds(tmp_path)
  for text in ("{", "[]", json.dumps({"step": 1, "split": "s", "all": {}, "classes": {}})):
    (tmp_path / "thresholds.json").write_text(text)
    with pytest.raises(ValueError, match=r"is damaged .* again with --calibrate"):
      load_thresholds(tmp_path)
