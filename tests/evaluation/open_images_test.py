"""Evaluation of Open Images: each rule by hand, and per class against a plain re-statement."""

import numpy as np
import pytest
from made_records import make_record
from shares import check_shares_add_up

from rkd_jax.evaluation.open_images import OpenImagesEvaluator

NAMES = ("vehicle", "car", "taxi", "boat", "tree", "fox")
VEHICLE, CAR, TAXI, BOAT, TREE, FOX = range(6)
ANCESTORS = [[], [VEHICLE], [VEHICLE, CAR], [VEHICLE], [], []]
BOX, FAR, OTHER = (0, 0, 10, 10), (50, 50, 60, 60), (80, 0, 90, 10)


def scene(gt=(), detections=(), groups=(), positive=(), negative=()):
  """What `image` takes: gt and groups (x1,y1,x2,y2,class), detections (..., score)."""
  rows = np.array([*gt, *groups], np.float64).reshape(-1, 5)
  found = np.array(detections, np.float64).reshape(-1, 6)
  return {
    "gt_boxes": rows[:, :4],
    "gt_classes": rows[:, 4].astype(int),
    "gt_is_group": np.arange(len(rows)) >= len(gt),
    "positive": np.array(positive, int),
    "negative": np.array(negative, int),
    "det_boxes": found[:, :4],
    "det_scores": found[:, 5],
    "det_classes": found[:, 4].astype(int),
  }


def image(image_id, arrays):
  """Arguments of `add`."""
  record = make_record(
    0,
    image_id=image_id,
    boxes=arrays["gt_boxes"],
    classes=arrays["gt_classes"],
    is_crowd=arrays["gt_is_group"],
    labels=arrays["positive"],
    negative_labels=arrays["negative"],
  )
  return record, {name: arrays[f"det_{name}"] for name in ("boxes", "scores", "classes")}


def evaluate(*scenes, base=(), novel=NAMES, order=None, **options):
  evaluator = OpenImagesEvaluator(NAMES, base, novel, ANCESTORS, **options)
  for number in range(len(scenes)) if order is None else order:
    evaluator.add(*image(number + 1, scenes[number]))
  return evaluator.compute()


def ap(*scenes, of=TREE, measure="AP50", **options):
  return evaluate(*scenes, **options)["per_class"][NAMES[of]][measure]


def test_classes_that_were_not_verified_do_not_count():
  """A better-scored tree in another image: right, dropped or wrong by what is known of trees."""
  tree = scene([(*BOX, TREE)], [(*BOX, TREE, 0.5)])
  false = [(*BOX, TREE, 0.9)]
  assert ap(tree, scene(detections=false)) == pytest.approx(100)
  # Precision 1/2 where recall becomes 1.
  assert ap(tree, scene(detections=false, negative=[TREE])) == pytest.approx(50)
  assert ap(tree, scene(detections=false, positive=[TREE])) == pytest.approx(50)


def test_a_class_with_a_box_is_verified_without_a_label():
  assert ap(scene([(*FAR, TREE)], [(*BOX, TREE, 0.9), (*FAR, TREE, 0.8)])) == pytest.approx(50)


def test_a_box_is_found_once_from_an_iou_of_one_half():
  """IoU 0.5 is enough and 0.49 is not; the second of two on one box is wrong."""
  assert ap(scene([(*BOX, TREE)], [(0, 0, 10, 5, TREE, 0.9)])) == pytest.approx(100)
  assert ap(scene([(*BOX, TREE)], [(0, 0, 10, 4.9, TREE, 0.9)])) == 0
  # Right, wrong, right: precision 1 up to recall 1/2, then 2/3.
  twice = scene(
    [(*BOX, TREE), (*FAR, TREE)],
    [(*BOX, TREE, 0.8), (*BOX, TREE, 0.9), (*FAR, TREE, 0.7)],
  )
  assert ap(twice) == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))


def test_a_detection_belongs_to_the_box_that_it_overlaps_most():
  """Both detections overlap the first box most; the second one would do for the other box."""
  near = [(0, 0, 10, 10, TREE), (0, 3, 10, 13, TREE)]
  # IoUs of the worse one: 0.818 with the first box, (10-2)/12 = 0.667 with the second.
  found = [(0, 0, 10, 10, TREE, 0.9), (0, 1, 10, 11, TREE, 0.8)]
  assert ap(scene(near, found)) == pytest.approx(50)


def test_precision_is_made_to_fall_with_recall():
  """Wrong, right, right: 1/2 and 2/3 at the recalls 1/3 and 2/3; raised, 2/3 up to 2/3."""
  gt = [(*BOX, TREE), (*FAR, TREE), (20, 20, 30, 30, TREE)]
  found = [(*OTHER, TREE, 0.9), (*BOX, TREE, 0.8), (*FAR, TREE, 0.7)]
  assert ap(scene(gt, found)) == pytest.approx(100 * 2 / 3 * 2 / 3)


def test_a_group_is_right_once_and_swallows_the_rest():
  """Of three trees in a group the best is right; the others are not wrong."""
  group = [(0, 0, 40, 40, TREE)]
  inside = [(*BOX, TREE, 0.6), (20, 20, 30, 30, TREE, 0.9), (0, 0, 40, 40, TREE, 0.8)]
  assert ap(scene(detections=inside, groups=group)) == pytest.approx(100)
  # The wrong one comes between the best (1/1) and the others, which are gone: 1 at 1/2, 2/3 at 1.
  gt, found = [(*FAR, TREE)], [*inside, (*OTHER, TREE, 0.85), (*FAR, TREE, 0.5)]
  assert ap(scene(gt, found, group)) == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))


def test_a_group_that_is_missed_costs_as_a_box_does():
  assert ap(scene([(*BOX, TREE)], [(*BOX, TREE, 0.9)], [(*FAR, TREE)])) == pytest.approx(50)
  assert ap(scene(groups=[(*FAR, TREE)])) == 0


def test_half_of_the_detection_must_lie_in_the_group():
  """It is its own area that counts: 5/10 and 4/10 of it, at an IoU far below 0.5."""
  group = [(0, 0, 100, 100, TREE)]
  assert ap(scene(detections=[(95, 0, 105, 10, TREE, 0.9)], groups=group)) == pytest.approx(100)
  assert ap(scene(detections=[(96, 0, 106, 10, TREE, 0.9)], groups=group)) == 0


def test_ordinary_boxes_come_before_groups():
  """The tree stands in a group.  Its finder is right; a second one on it is of the group."""
  gt, group = [(*BOX, TREE)], [(0, 0, 40, 40, TREE)]
  assert ap(scene(gt, [(*BOX, TREE, 0.9)], group)) == pytest.approx(50)
  assert ap(scene(gt, [(*BOX, TREE, 0.9), (*BOX, TREE, 0.8)], group)) == pytest.approx(100)


def test_a_detection_belongs_to_the_group_that_holds_most_of_it():
  groups = [(0, 0, 10, 10, TREE), (5, 0, 20, 10, TREE)]
  # 0.6 and 0.9 of it: one group is found; the other one by a second detection of its own.
  one, two = (4, 0, 14, 10, TREE, 0.9), (0, 0, 5, 5, TREE, 0.8)
  assert ap(scene(detections=[one], groups=groups)) == pytest.approx(50)
  assert ap(scene(detections=[one, two], groups=groups)) == pytest.approx(100)


def test_boxes_and_groups_of_other_classes_do_not_match():
  assert ap(scene([(*BOX, CAR)], [(*BOX, TREE, 0.9)], negative=[TREE])) is None
  results = evaluate(
    scene([(*BOX, CAR), (*FAR, TREE)], [(*BOX, TREE, 0.9), (*FAR, TREE, 0.8)], [(*BOX, CAR)])
  )
  assert results["per_class"]["tree"] == {
    "num_gt": 1,
    "AP50": pytest.approx(50),
    "AP50_expanded": pytest.approx(50),
  }
  assert results["per_class"]["car"] == {"num_gt": 2, "AP50": 0, "AP50_expanded": 0}


def test_detections_stand_for_the_classes_above_when_expanded():
  """A taxi, found as one: as the detections come, the car and the vehicle are missed."""
  taxi = scene([(*BOX, TAXI), (*BOX, CAR), (*BOX, VEHICLE)], [(*BOX, TAXI, 0.9)])
  results = evaluate(taxi)
  assert results["AP50_all"] == pytest.approx(100 / 3)
  assert results["AP50_expanded_all"] == pytest.approx(100)
  # A car says nothing of what is below: the taxi stays missed.
  car = scene([(*BOX, TAXI), (*BOX, CAR), (*BOX, VEHICLE)], [(*BOX, CAR, 0.9)])
  per_class = evaluate(car)["per_class"]
  assert [per_class[name]["AP50_expanded"] for name in ("taxi", "car")] == [0, pytest.approx(100)]


def test_an_expanded_detection_counts_beside_the_detectors_own():
  """Taxi and vehicle on one vehicle: two of the class, the first takes the box, one is wrong."""
  found = [(*BOX, TAXI, 0.9), (*BOX, VEHICLE, 0.8), (*FAR, VEHICLE, 0.7)]
  arrays = scene([(*BOX, VEHICLE), (*FAR, VEHICLE)], found)
  assert ap(arrays, of=VEHICLE) == pytest.approx(100)
  expanded = ap(arrays, of=VEHICLE, measure="AP50_expanded")
  assert expanded == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))


def test_a_class_above_counts_where_it_is_verified_itself():
  """Boats not verified, vehicles verified not to be there: the boat is a wrong vehicle."""
  truth = scene([(*BOX, VEHICLE)], [(*BOX, VEHICLE, 0.5)])
  boat = scene(detections=[(*BOX, BOAT, 0.9)], negative=[VEHICLE])
  assert ap(truth, boat, of=VEHICLE) == pytest.approx(100)
  assert ap(truth, boat, of=VEHICLE, measure="AP50_expanded") == pytest.approx(50)


def test_the_best_of_an_image_count_whatever_their_class():
  """The cut comes before classes are dropped, and before detections are expanded."""
  found = [(*BOX, FOX, 0.9), (*BOX, TAXI, 0.8), (*BOX, TREE, 0.5)]
  arrays = scene([(*BOX, TREE)], found)
  assert ap(arrays, max_detections=3) == pytest.approx(100)
  assert ap(arrays, max_detections=3, measure="AP50_expanded") == pytest.approx(100)
  assert ap(arrays, max_detections=2) == 0


def test_means_are_over_the_classes_with_ground_truth():
  arrays = scene([(*BOX, TREE), (*FAR, CAR)], [(*BOX, TREE, 0.9)])
  results = evaluate(arrays, base=("tree", "fox"), novel=("car", "taxi"))
  assert results["AP50_base"] == pytest.approx(100) and results["AP50_novel"] == 0
  assert results["AP50_all"] == pytest.approx(50)
  assert results["per_class"]["fox"] == {"num_gt": 0, "AP50": None, "AP50_expanded": None}
  assert evaluate(arrays)["AP50_base"] is None


def plain_aps(scenes, expanded, max_detections):
  """The rules once more, one detection at a time; AP of each class, None without ground truth."""
  aps = []
  for c in range(len(NAMES)):
    outcomes, num_gt = [], 0
    for arrays in scenes:
      gt = [i for i, own in enumerate(arrays["gt_classes"]) if own == c]
      num_gt += len(gt)
      if not gt and c not in {*arrays["positive"], *arrays["negative"]}:
        continue
      best = sorted(range(len(arrays["det_scores"])), key=lambda i: -arrays["det_scores"][i])
      best = [
        i
        for i in best[:max_detections]
        if arrays["det_classes"][i] == c or (expanded and c in ANCESTORS[arrays["det_classes"][i]])
      ]
      outcomes += plain_outcomes(arrays, gt, best)
    outcomes.sort(key=lambda outcome: -outcome[0])
    hits = np.array([hit for _, hit in outcomes], bool)
    aps.append(plain_area(hits, num_gt) if num_gt else None)
  return aps


def plain_outcomes(arrays, gt, best):
  """(score, right) of the detections `best` of one image and class that are not ignored."""
  right, taken, left = {}, set(), []
  for i in best:
    ious = {g: overlap(arrays, i, g)[0] for g in gt if not arrays["gt_is_group"][g]}
    g = max(ious, key=ious.get, default=None)
    if g is not None and ious[g] >= 0.5 and g not in taken:
      taken.add(g)
      right[i] = True
    else:
      left.append(i)
  for i in left:
    shares = {g: overlap(arrays, i, g)[1] for g in gt if arrays["gt_is_group"][g]}
    g = max(shares, key=shares.get, default=None)
    if g is None or shares[g] < 0.5:
      right[i] = False
    elif g not in taken:
      taken.add(g)
      right[i] = True
  return [(arrays["det_scores"][i], right[i]) for i in best if i in right]


def overlap(arrays, i, g):
  """Intersection over union, and over the area of the detection."""
  (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = arrays["det_boxes"][i], arrays["gt_boxes"][g]
  common = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
  own = (ax2 - ax1) * (ay2 - ay1)
  return common / (own + (bx2 - bx1) * (by2 - by1) - common), common / own


def plain_area(hits, num_gt):
  """Percent: at each recall the best precision at that recall or a higher one."""
  precision = [hits[: n + 1].mean() for n in range(len(hits))]
  recalled = [n for n, hit in enumerate(hits) if hit]
  return 100 * sum(max(precision[n:]) for n in recalled) / num_gt


def random_scene(rng):
  def boxes(count):
    corners = rng.integers(0, 12, (count, 2))
    return np.hstack([corners, corners + rng.integers(2, 9, (count, 2))]).astype(float)

  gt = boxes(rng.integers(0, 7))
  classes = rng.integers(0, 5, len(gt))
  # Detections: ground truth, moved, of its class or one below or above; and anything else.
  near = np.repeat(gt, 3, axis=0) + rng.integers(-1, 2, (3 * len(gt), 4)) * 0.5
  found = np.vstack([near, boxes(6)])
  labels = np.concatenate([np.repeat(classes, 3), rng.integers(0, 5, 6)])
  labels = np.where(rng.random(len(labels)) < 0.3, rng.integers(0, 5, len(labels)), labels)
  # Scores often equal, within an image and across.
  scores = rng.integers(1, 60, len(found)) / 60
  known = rng.permutation(6)[:4]
  arrays = scene(
    np.column_stack([gt, classes]),
    np.column_stack([found, labels, scores]),
    (),
    known[:2],
    known[2:],
  )
  return {**arrays, "gt_is_group": rng.random(len(gt)) < 0.3}


@pytest.mark.parametrize("max_detections", [9, 300])
def test_aps_equal_the_plain_rules(max_detections):
  rng = np.random.default_rng(0)
  scenes = [random_scene(rng) for _ in range(60)] + [scene()]
  results = evaluate(*scenes, max_detections=max_detections)
  for measure in ("AP50", "AP50_expanded"):
    expected = plain_aps(scenes, measure == "AP50_expanded", max_detections)
    found = [results["per_class"][name][measure] for name in NAMES]
    assert found[FOX] is None and expected[FOX] is None
    np.testing.assert_allclose(found[:5], expected[:5], rtol=0, atol=1e-9)
    assert 10 < results[f"{measure}_all"] < 90
    assert results[f"{measure}_all"] == pytest.approx(np.mean(expected[:5]), abs=1e-9)
  assert results["AP50_all"] != results["AP50_expanded_all"]


def test_shares_of_the_images_add_up():
  rng = np.random.default_rng(2)
  scenes = [random_scene(rng) for _ in range(20)]
  images = [image(i + 1, arrays) for i, arrays in enumerate(scenes)]
  check_shares_add_up(lambda: OpenImagesEvaluator(NAMES, (), NAMES, ANCESTORS), images)


def test_the_order_of_images_does_not_matter():
  rng = np.random.default_rng(1)
  scenes = [random_scene(rng) for _ in range(20)]
  assert evaluate(*scenes) == evaluate(*scenes, order=rng.permutation(20))


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("det_boxes", np.array([[0, 0, np.nan, 1]]), "image 1, detections: boxes are not finite"),
    ("det_scores", np.array([0.5, 0.4]), r"scores have shape \(2,\), expected \(1,\)"),
    ("gt_classes", np.array([6]), r"image 1, ground truth: classes span 6..6, expected 0..5"),
    ("negative", np.array([2, -1]), r"image 1: verified classes: \[-1\] are no classes"),
  ],
)
def test_bad_arrays_name_the_image(key, value, message):
  with pytest.raises(ValueError, match=message):
    evaluate({**scene([(*BOX, 0)], [(*BOX, 0, 0.9)]), key: value})


def test_bad_use_is_refused():
  with pytest.raises(
    ValueError, match=r"ancestors are of 1 classes, expected a list for each of 2"
  ):
    OpenImagesEvaluator(("a", "b"), (), ("a",), [[]])
  with pytest.raises(ValueError, match=r"ancestors of class 'b': \[2\] are no classes"):
    OpenImagesEvaluator(("a", "b"), (), ("a",), [[], [2]])
  with pytest.raises(ValueError, match=r"\['a'\] are in the list of base classes and of novel"):
    OpenImagesEvaluator(("a", "b"), ("a",), ("a",), [[], []])
  evaluator = OpenImagesEvaluator(NAMES, (), NAMES, ANCESTORS)
  with pytest.raises(ValueError, match="no image was added"):
    evaluator.compute()
  evaluator.add(*image(7, scene()))
  with pytest.raises(ValueError, match="image 7 was added twice"):
    evaluator.add(*image(7, scene()))
