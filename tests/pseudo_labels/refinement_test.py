"""Detections that CLIP agrees with, by hand and with a detector that says what it is told."""

import numpy as np
import pytest

from rkd_jax.pseudo_labels import refinement
from rkd_jax.pseudo_labels.refinement import Agreement, Refiner, agreeing
from rkd_jax.pseudo_labels.writing import Labelled
from rkd_jax.structures import Detections
from tests import made_records, tiny_coco

# Three regions; CLIP gives the first two to class 2 and the third to class 0.
REGIONS = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [60, 60, 90, 90]], np.float32)
COSINES = np.array([[0.1, 0.2, 0.4], [0.3, 0.0, 0.35], [0.6, 0.1, 0.2]])


def _found(*rows):
  """Rows of (box, label, score)."""
  boxes, labels, scores = zip(*rows) if rows else ((), (), ())
  boxes = np.array(boxes, np.float32).reshape(-1, 4)
  return Labelled(boxes, np.array(labels, np.int64), np.array(scores, np.float32))


def _probability(region, label, scale):
  powers = np.exp(scale * COSINES[region])
  return powers[label] / powers.sum()


def test_only_detections_on_a_region_of_the_same_class_are_kept():
  found = _found(
    ([0, 0, 10, 9], 2, 0.8),  # on the first region
    ([0, 0, 10, 4], 2, 0.9),  # too little of it
    ([61, 61, 90, 90], 2, 0.9),  # on a region that CLIP gives to another class
    ([21, 20, 40, 40], 2, 0.2),  # the detector's own score is too low
    ([61, 61, 90, 90], 0, 0.9),  # of a class that is not wanted
  )
  rule = Agreement(score=0.3, scale=10.0, per_image=5)
  kept = agreeing(found, REGIONS, COSINES, [1, 2], rule)
  np.testing.assert_array_equal(kept.boxes, found.boxes[:1])
  assert kept.labels.tolist() == [2]
  np.testing.assert_allclose(kept.scores, [(0.8 + _probability(0, 2, 10)) / 2], rtol=1e-6)


def test_the_best_of_an_image_by_the_mean_of_both_scores():
  found = _found(([20, 20, 40, 40], 2, 0.7), ([0, 0, 10, 10], 2, 0.6), ([60, 60, 90, 90], 0, 0.5))
  rule = Agreement(scale=10.0, per_image=1)
  kept = agreeing(found, REGIONS, COSINES, [0, 2], rule)
  # CLIP is surer of the third than of the first, and of the first region than of the second.
  scores = {2: (0.6 + _probability(0, 2, 10)) / 2, 0: (0.5 + _probability(2, 0, 10)) / 2}
  assert scores[2] > (0.7 + _probability(1, 2, 10)) / 2
  assert kept.labels.tolist() == sorted(scores, key=scores.get, reverse=True)
  np.testing.assert_allclose(kept.scores, sorted(scores.values(), reverse=True), rtol=1e-6)
  both = agreeing(found, REGIONS, COSINES, [0, 2], Agreement(scale=10.0, per_image=2))
  assert sorted(both.labels.tolist()) == [0, 2, 2]
  bound = Agreement(scale=10.0, per_image=2, threshold=float(max(scores.values())) - 1e-3)
  assert len(agreeing(found, REGIONS, COSINES, [0, 2], bound).labels) == 1


@pytest.mark.parametrize("regions, detections", [(0, 2), (3, 0)])
def test_without_regions_or_detections_there_is_nothing(regions, detections):
  found = _found(*[([0, 0, 10, 10], 2, 0.9)] * detections)
  kept = agreeing(found, REGIONS[:regions], COSINES[:regions], [2], Agreement())
  assert kept.boxes.shape == (0, 4) and len(kept.labels) == len(kept.scores) == 0


@pytest.mark.parametrize("settings", [{"score": 1.5}, {"overlap": -0.1}, {"threshold": 2.0}])
def test_bounds_are_between_none_and_all(settings):
  with pytest.raises(ValueError, match=r"expected a number from 0 to 1"):
    Agreement(**settings)


@pytest.mark.parametrize("settings", [{"per_image": 0}, {"scale": 0.0}])
def test_numbers_of_a_rule(settings):
  with pytest.raises(ValueError, match="expected at least 1, and above 0"):
    Agreement(**settings)


class _Told:
  """Finds the box [id, 0, id + 10, 10] of class 1 in every image, and one that is not valid."""

  def __init__(self, config):
    self.config, self.ids = config, []

  def detect(self, batch, rows):
    assert rows.shape == (8, made_records.DIM)
    ids = np.asarray(batch.image_ids)
    self.ids += ids.tolist()
    boxes = np.stack([ids, ids * 0, ids + 10, ids * 0 + 10], -1).astype(np.float32)[:, None]
    shape = (len(ids), 2)
    return Detections(
      boxes=np.repeat(boxes, 2, axis=1),
      scores=np.full(shape, 0.75, np.float32),
      classes=np.ones(shape, np.int32),
      rois=np.zeros(shape, np.int32),
      valid=np.array([[True, False]] * len(ids)) & np.asarray(batch.valid)[:, None],
    )


def test_a_refiner_answers_for_the_records_it_is_asked(tmp_path, monkeypatch):
  config = tiny_coco.get_config(str(tmp_path))
  spec = made_records.make_spec("eval", batch_size=2)
  monkeypatch.setattr(refinement, "detector_specs", lambda config: {"eval": spec})
  source = made_records.make_source(5)
  rows = np.eye(8, made_records.DIM, dtype=np.float32) + 0.01

  def result(index):
    # On what the detector finds lies a region, which of image 103 is of another class.
    image_id = 100 + index
    box = np.array([[image_id, 0, image_id + 10, 10]], np.float32)
    return {"regions/boxes": box, "regions/clip_embeddings": rows[[2 if index == 3 else 1]]}

  source.result = result
  detector = _Told(config)
  refiner = Refiner(detector, rows, [1], Agreement(scale=20.0))  # pyright: ignore
  found = list(refiner.labelled(source, [4, 1, 3]))
  assert [id_ for id_ in detector.ids if id_] == [104, 101, 103]
  assert [own.boxes[:, 0].tolist() for own in found] == [[104.0], [101.0], []]
  assert all(0.375 < own.scores[0] < 0.875 for own in found[:2])
