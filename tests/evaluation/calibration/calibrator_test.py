"""What is collected of images: which detections count, and the same of any shares of them."""

import dataclasses

import numpy as np
import pytest
from made_records import make_record
from shares import check_shares_add_up

from rkd_jax.evaluation.calibration.calibrator import Calibrator
from rkd_jax.evaluation.calibration.scaling import compared, fit

NAMES = ("cat", "dog", "owl", "bee", "fox")


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


def many(count):
  """Images with a cat and a dog, of which others are found with other scores."""
  rng = np.random.default_rng(3)
  for number in range(count):
    rows = [(*CAT, rng.random()), (*DOG, rng.random()), (*AWAY, 0, rng.random() / 2)]
    kept = rows[: 1 + rng.integers(3)]
    yield image(number, [CAT, DOG], kept)


def test_probabilities_are_fitted_to_what_counts():
  images = list(many(40))
  own = calibrated(*images)
  scores = np.concatenate([found["scores"] for _, found in images])
  classes = np.concatenate([found["classes"] for _, found in images])
  hits = np.concatenate([[True, True, False][: len(found["scores"])] for _, found in images])
  expected = fit(scores, classes, hits, len(NAMES))
  found = own.compute()["probability"]
  assert (found["slope"], found["bias"]) == (expected.slope, expected.bias)
  assert found["classes"] == dict(zip(NAMES[:3], expected.biases[:3].tolist()))
  assert found["classes"]["owl"] == found["bias"]  # without a detection
  assert own.measured(expected) == {
    "images": 40,
    **compared(scores, expected(scores, classes), hits),
  }


def test_each_half_of_the_images_is_measured_by_the_other():
  """By rising id, whatever the order and the ids are."""
  images = [
    (dataclasses.replace(record, image_id=10 * i), found)
    for i, (record, found) in enumerate(many(9))
  ]
  scores, chances, hits = calibrated(*images[::-1]).held_out()
  even, odd = calibrated(*images[::2]).scaling(), calibrated(*images[1::2]).scaling()
  expected = np.concatenate(
    [(odd, even)[i % 2](found["scores"], found["classes"]) for i, (_, found) in enumerate(images)]
  )
  np.testing.assert_array_equal(chances, expected)
  np.testing.assert_array_equal(scores, np.concatenate([found["scores"] for _, found in images]))
  two_fold = calibrated(*images).compute()["probability"]["two_fold"]
  assert two_fold == {"images": 9, **compared(scores, expected, hits)}
  assert calibrated(images[0]).compute()["probability"]["two_fold"]["after"]["brier"] > 0
