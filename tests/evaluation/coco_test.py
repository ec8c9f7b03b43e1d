"""COCO evaluation: hand-computed AP, protocol of the split, two engines."""

import numpy as np
import pytest
from made_records import make_record
from shares import check_shares_add_up

from rkd_jax.evaluation.coco import CocoEvaluator

NAMES = ("cat", "dog", "owl", "bee", "fox")
BASE, NOVEL = ("cat", "dog"), ("owl", "bee")


def image(gt=(), detections=()):
  """What `add` takes: gt rows (x1,y1,x2,y2,class[,crowd]), detections (…,class,score)."""
  gt_rows = np.array([(*row, 0)[:6] for row in gt], np.float32).reshape(-1, 6)
  det_rows = np.array(detections, np.float32).reshape(-1, 6)
  boxes = gt_rows[:, :4]
  truth = {
    "boxes": boxes,
    "classes": gt_rows[:, 4].astype(np.int32),
    "is_crowd": gt_rows[:, 5] > 0,
    "areas": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
  }
  found = {
    "boxes": det_rows[:, :4],
    "scores": det_rows[:, 5],
    "classes": det_rows[:, 4].astype(np.int32),
  }
  return truth, found


def record(image_id, truth):
  return make_record(0, image_id=image_id, height=100, width=100, **truth)


def evaluate(*images, **options):
  evaluator = CocoEvaluator(NAMES, BASE, NOVEL, **options)
  for image_id, (truth, found) in enumerate(images):
    evaluator.add(record(image_id, truth), found)
  return evaluator.compute()


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_ap_by_hand(engine):
  # Two cats.  Ranked: hit, miss, hit: precision 1 up to recall 1/2 (51 of the 101 recall
  # points), 2/3 above (50 points).  The second hit has IoU 0.8: counted at 0.5 … 0.8 only.
  results = evaluate(
    image(
      gt=[(0, 0, 10, 10, 0), (50, 50, 60, 60, 0)],
      detections=[
        (0, 0, 10, 10, 0, 0.9),
        (80, 80, 90, 90, 0, 0.8),
        (50, 50, 60, 58, 0, 0.7),
      ],
    ),
    engine=engine,
  )
  at_low_iou = (51 + 50 * 2 / 3) / 101
  at_high_iou = 51 / 101
  assert results["per_class"]["cat"]["AP50"] == pytest.approx(100 * at_low_iou)
  assert results["per_class"]["cat"]["AP"] == pytest.approx(
    100 * (7 * at_low_iou + 3 * at_high_iou) / 10
  )
  assert results["per_class"]["cat"]["num_gt"] == 2


def test_groups_average_over_classes_that_have_ground_truth():
  results = evaluate(
    image(
      gt=[(0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 2)],
      detections=[(0, 0, 10, 10, 0, 0.9), (40, 0, 50, 10, 2, 0.9), (0, 0, 9, 9, 3, 0.9)],
    )
  )
  assert results["AP50_base"] == pytest.approx(50.0)
  assert results["AP50_novel"] == pytest.approx(100.0)
  assert results["AP50_all"] == pytest.approx(200 / 3)
  assert results["per_class"]["bee"] == {"AP50": None, "AP": None, "num_gt": 0}


def test_no_novel_ground_truth_gives_none():
  results = evaluate(image(gt=[(0, 0, 10, 10, 0)], detections=[(0, 0, 10, 10, 0, 0.9)]))
  assert results["AP50_novel"] is None
  assert results["AP50_all"] == pytest.approx(100.0)


def test_unannotated_classes_are_not_evaluated():
  scene = image(gt=[(0, 0, 10, 10, 0)], detections=[(0, 0, 10, 10, 0, 0.5)])
  with_fox = image(
    gt=[(0, 0, 10, 10, 0), (5, 5, 30, 30, 4)],
    detections=[(0, 0, 10, 10, 0, 0.5), (0, 0, 10, 10, 4, 0.9)],
  )
  assert evaluate(with_fox) == evaluate(scene)
  assert "fox" not in evaluate(with_fox)["per_class"]


def test_detection_inside_a_crowd_is_no_false_positive():
  crowd = (40, 40, 90, 90, 0, 1)
  found = [(50, 50, 60, 60, 0, 0.9), (0, 0, 10, 10, 0, 0.8)]
  with_crowd = evaluate(image(gt=[(0, 0, 10, 10, 0), crowd], detections=found))
  without = evaluate(image(gt=[(0, 0, 10, 10, 0)], detections=found))
  assert with_crowd["per_class"]["cat"] == {
    "AP50": pytest.approx(100.0),
    "AP": pytest.approx(100.0),
    "num_gt": 1,
  }
  assert without["AP50_base"] == pytest.approx(50.0)


def random_scene(rng):
  """Boxes on a coarse grid with jittered, duplicated, equally scored detections."""
  gt, detections = [], []
  for _ in range(rng.integers(0, 6)):
    corner, size = rng.integers(0, 60, 2), rng.integers(5, 40, 2)
    gt.append((*corner, *(corner + size), rng.integers(0, 5), rng.random() < 0.15))
  for row in gt:
    for _ in range(rng.integers(0, 4)):
      box = np.array(row[:4]) + rng.normal(0, 2, 4)
      found = row[4] if rng.random() < 0.8 else rng.integers(0, 5)
      detections.append((*box, found, rng.integers(1, 5) / 5))
  for _ in range(rng.integers(0, 4)):
    corner, size = rng.random(2) * 60, rng.random(2) * 40
    detections.append((*corner, *(corner + size), rng.integers(0, 5), rng.integers(1, 5) / 5))
  return image(gt, detections)


@pytest.mark.parametrize("max_detections", [2, 100])
def test_engines_give_identical_numbers(max_detections):
  rng = np.random.default_rng(0)
  scenes = [random_scene(rng) for _ in range(60)] + [image()]
  fast = evaluate(*scenes, max_detections=max_detections)
  reference = evaluate(*scenes, engine="pycocotools", max_detections=max_detections)
  assert fast == reference
  assert 10 < fast["AP_all"] < fast["AP50_all"] < 90


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_nothing_found_is_zero_and_silent(engine, capsys):
  results = evaluate(image(gt=[(0, 0, 10, 10, 0)]), image(), engine=engine)
  assert results["AP50_base"] == 0.0
  assert capsys.readouterr().out == ""


def test_shares_of_the_images_add_up():
  rng = np.random.default_rng(2)
  scenes = [random_scene(rng) for _ in range(12)]
  images = [(record(i, truth), found) for i, (truth, found) in enumerate(scenes)]
  check_shares_add_up(lambda: CocoEvaluator(NAMES, BASE, NOVEL), images)


def test_order_of_images_does_not_matter():
  rng = np.random.default_rng(1)
  scenes = [random_scene(rng) for _ in range(10)]
  forward, backward = (CocoEvaluator(NAMES, BASE, NOVEL) for _ in range(2))
  images = [(record(i, truth), found) for i, (truth, found) in enumerate(scenes)]
  for one, other in zip(images, reversed(images)):
    forward.add(*one)
    backward.add(*other)
  assert forward.compute() == backward.compute()


def test_bad_use_is_refused():
  with pytest.raises(ValueError, match="'yak'"):
    CocoEvaluator(NAMES, BASE, ("yak",))
  with pytest.raises(ValueError, match="in the list of base classes and of novel"):
    CocoEvaluator(NAMES, BASE, ("cat",))
  with pytest.raises(ValueError, match="expected 'hotcoco' or 'pycocotools'"):
    CocoEvaluator(NAMES, BASE, NOVEL, engine="lvis")
  with pytest.raises(ValueError, match="no image"):
    CocoEvaluator(NAMES, BASE, NOVEL).compute()
  evaluator = CocoEvaluator(NAMES, BASE, NOVEL)
  truth, found = image()
  evaluator.add(record(1, truth), found)
  with pytest.raises(ValueError, match="image 1 was added twice"):
    evaluator.add(record(1, truth), found)
