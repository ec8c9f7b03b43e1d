"""Hits, false detections and what does not count, by hand and as hotcoco has them."""

import hotcoco
import numpy as np
import pytest
from made_records import make_record

from rkd_jax.evaluation.coco import coco_annotations
from rkd_jax.evaluation.matching import FALSE, HIT, IGNORED, match

NAMES = range(3)


def record(boxes, classes, crowd=None, **more):
  boxes = np.array(boxes, np.float32).reshape(-1, 4)
  crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd)
  areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
  own = {"boxes": boxes, "classes": np.array(classes, np.int32), "is_crowd": crowd, "areas": areas}
  return make_record(0, height=100, width=100, **own, **more)


def found(boxes, classes, scores):
  boxes = np.array(boxes, np.float32).reshape(-1, 4)
  return {"boxes": boxes, "classes": np.array(classes, int), "scores": np.array(scores, float)}


BOX, SHIFTED, FAR = [0, 0, 10, 10], [0, 2, 10, 12], [50, 50, 60, 60]


def test_the_best_score_takes_the_object_and_a_second_one_is_false():
  status, partner = match(
    record([BOX], [1]), found([SHIFTED, BOX, FAR], [1, 1, 1], [0.9, 0.8, 0.7]), NAMES
  )
  assert status.tolist() == [HIT, FALSE, FALSE] and partner.tolist() == [0, -1, -1]


def test_a_detection_takes_the_free_object_it_overlaps_most():
  objects = record([BOX, SHIFTED], [1, 1])
  status, partner = match(objects, found([SHIFTED, SHIFTED], [1, 1], [0.4, 0.9]), NAMES)
  assert status.tolist() == [HIT, HIT] and partner.tolist() == [0, 1]


def test_another_class_and_an_overlap_below_the_threshold_are_false():
  objects = record([BOX], [1])
  status, _ = match(objects, found([BOX, [0, 5, 10, 15]], [2, 1], [0.9, 0.8]), NAMES)
  assert status.tolist() == [FALSE, FALSE]  # an IoU of 1/3
  status, _ = match(objects, found([[0, 5, 10, 15]], [1], [0.8]), NAMES, threshold=0.3)
  assert status.tolist() == [HIT]


def test_crowds_and_classes_that_are_not_evaluated_do_not_count():
  objects = record([[0, 0, 50, 50]], [1], crowd=[True])
  detections = found([BOX, FAR, BOX], [1, 1, 2], [0.9, 0.8, 0.7])
  status, partner = match(objects, detections, {1})
  assert status.tolist() == [IGNORED, FALSE, IGNORED] and (partner == -1).all()


def test_in_federated_data_only_what_was_looked_for_counts():
  lists = {"negative_labels": np.array([2]), "not_exhaustive_labels": np.array([1])}
  objects = record([BOX], [1], **lists)
  detections = found([BOX, FAR, FAR, FAR], [1, 1, 2, 0], [0.9, 0.8, 0.7, 0.6])
  status, _ = match(objects, detections, NAMES)
  assert status.tolist() == [HIT, IGNORED, FALSE, IGNORED]


def test_no_detections_and_no_objects():
  assert match(record([], []), found([], [], []), NAMES)[0].shape == (0,)
  assert match(record([], []), found([BOX], [1], [0.5]), NAMES)[0].tolist() == [FALSE]


@pytest.mark.parametrize("seed", range(5))
def test_hits_are_those_of_hotcoco(seed):
  rng = np.random.default_rng(seed)

  def boxes(count):
    corner = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(10, 40, (count, 2))], 1).astype(np.float32)

  objects = record(boxes(30), rng.integers(0, 3, 30), rng.random(30) < 0.1)
  near = objects.boxes[rng.integers(0, 30, 60)] + rng.normal(0, 3, (60, 4)).astype(np.float32)
  detections = found(near, rng.integers(0, 3, 60), rng.permutation(60) / 60)
  categories = [{"id": i + 1, "name": str(i)} for i in range(3)]
  image = [{"id": 1, "height": 100, "width": 100}]
  own = coco_annotations(1, vars(objects), range(30))
  truth = hotcoco.COCO({"images": image, "categories": categories, "annotations": own})
  results = truth.load_res(coco_annotations(1, detections, range(60)))
  evaluation = hotcoco.COCOeval(truth, results, "bbox")
  evaluation.params.max_dets = [100]
  evaluation.evaluate()
  expected = evaluation.image_diagnostics(iou_thr=0.5)["dt_status"]
  status, _ = match(objects, detections, NAMES)
  hits = {i + 1 for i in np.flatnonzero(status == HIT)}
  assert hits == {int(i) for i, own in expected.items() if own == "tp"} and len(hits) > 5
