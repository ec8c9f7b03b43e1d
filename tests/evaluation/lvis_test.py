"""LVIS evaluation: rules by hand, and per class against a plain re-statement of the protocol."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_records import make_record
from pycocotools import mask as coco_mask
from shares import check_shares_add_up

from rkd_jax.evaluation.lvis import LvisEvaluator
from rkd_jax.frozen.detector import encode_masks

NAMES = ("ant", "bat", "cat", "dog", "eel", "fox")
FREQUENCIES = ("r", "c", "f", "f", "r", "c")
SIZE = 100


def square(x1, y1, x2, y2):
  return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], float)


def scene(gt=(), detections=(), negative=(), not_exhaustive=()):
  """What `image` takes: gt rows (x1,y1,x2,y2,class), detections (..., score)."""
  gt_rows = np.array(gt, np.float64).reshape(-1, 5)
  rows = np.array(detections, np.float64).reshape(-1, 6)
  return {
    "gt_boxes": gt_rows[:, :4],
    "gt_classes": gt_rows[:, 4].astype(int),
    "gt_polygons": [[square(*row[:4])] for row in gt_rows],
    "negative": np.array(negative, int),
    "not_exhaustive": np.array(not_exhaustive, int),
    "det_boxes": rows[:, :4],
    "det_scores": rows[:, 5],
    "det_classes": rows[:, 4].astype(int),
    "det_masks": np.ones((len(rows), 4, 4), np.float32),
  }


def image(image_id, arrays):
  """Arguments of `add`."""
  record = make_record(
    0,
    image_id=image_id,
    height=SIZE,
    width=SIZE,
    boxes=arrays["gt_boxes"],
    classes=arrays["gt_classes"],
    polygons=arrays["gt_polygons"],
    negative_labels=arrays["negative"],
    not_exhaustive_labels=arrays["not_exhaustive"],
  )
  return record, {name: arrays[f"det_{name}"] for name in ("boxes", "scores", "classes", "masks")}


def evaluate(*scenes, order=None, **options):
  evaluator = LvisEvaluator(NAMES, FREQUENCIES, **options)
  for number in range(len(scenes)) if order is None else order:
    evaluator.add(*image(number + 1, scenes[number]))
  return evaluator.compute()


BOX, FAR = (0, 0, 10, 10), (50, 50, 60, 60)


def test_classes_that_were_not_looked_for_do_not_count():
  """A false positive of the cat in an image without cats costs only where LVIS said so."""
  truth = scene(gt=[(*BOX, 2)], detections=[(*BOX, 2, 0.5)])
  false = [(*BOX, 2, 0.9)]
  assert evaluate(truth, scene(detections=false))["box_AP"] == pytest.approx(100)
  assert evaluate(truth, scene(detections=false, negative=[2]))["box_AP"] == pytest.approx(50)
  for name in ("box", "mask"):
    assert evaluate(truth, scene(detections=false, negative=[2]))[f"{name}_APf"] < 51


def test_unmatched_detections_of_a_class_not_annotated_exhaustively_are_ignored():
  detections = [(*FAR, 2, 0.9), (*BOX, 2, 0.5)]
  strict = evaluate(scene(gt=[(*BOX, 2)], detections=detections))
  lenient = evaluate(scene(gt=[(*BOX, 2)], detections=detections, not_exhaustive=[2]))
  assert strict["per_class"]["cat"]["box_AP"] == pytest.approx(50)
  assert lenient["per_class"]["cat"]["box_AP"] == pytest.approx(100)
  assert lenient["mask_AP"] == pytest.approx(100)


def test_the_best_of_an_image_count_whatever_their_class():
  """The cat is third: two detections of a class that does not count come before the cut."""
  detections = [(*BOX, 3, 0.9), (*BOX, 3, 0.8), (*BOX, 2, 0.5)]
  assert evaluate(scene([(*BOX, 2)], detections), max_detections=3)["box_AP"] == pytest.approx(100)
  assert evaluate(scene([(*BOX, 2)], detections), max_detections=2)["box_AP"] == 0


def test_groups_and_thresholds():
  """IoU 0.6 of the rare ant: AP50 whole, AP75 nothing; the common bat is missed."""
  results = evaluate(
    scene(
      gt=[(*BOX, 0), (*FAR, 1), (20, 20, 40, 40, 2)],
      detections=[(0, 0, 10, 6, 0, 0.9), (20, 20, 40, 40, 2, 0.8)],
    )
  )
  assert results["box_APr"] == pytest.approx(30)  # at 0.5, 0.55 and 0.6 of ten
  assert (results["box_APc"], results["box_APf"]) == (0, pytest.approx(100))
  assert results["box_AP50"] == pytest.approx(200 / 3)
  assert results["box_AP75"] == pytest.approx(100 / 3)
  assert results["box_AP"] == pytest.approx(130 / 3)
  assert results["per_class"]["dog"] == {
    "frequency": "f",
    "num_gt": 0,
    "box_AP": None,
    "mask_AP": None,
  }


def test_masks_are_matched_by_their_pixels():
  """Right boxes, but the mask of one detection is empty: no mask AP for it."""
  arrays = scene([(*BOX, 0), (*FAR, 1)], [(*BOX, 0, 0.9), (*FAR, 1, 0.9)])
  arrays["det_masks"][1] = 0
  results = evaluate(arrays)
  assert results["box_AP"] == pytest.approx(100)
  assert (results["mask_APr"], results["mask_APc"]) == (pytest.approx(100), 0)


def test_a_box_without_area_is_no_false_positive():
  thin = (5, 5, 5, 9, 0, 0.9)
  assert evaluate(scene([(*BOX, 0)], [thin, (*BOX, 0, 0.5)]))["box_AP"] == pytest.approx(100)


def test_a_mask_without_a_pixel_is_no_false_positive():
  """It takes its place among the best of the image all the same."""
  arrays = scene([(*BOX, 0)], [(*FAR, 0, 0.9), (*BOX, 0, 0.5)])
  arrays["det_masks"][0] = 0
  results = evaluate(arrays)
  assert (results["box_AP"], results["mask_AP"]) == (pytest.approx(50), pytest.approx(100))
  assert evaluate(arrays, max_detections=1)["mask_AP"] == 0


def test_an_object_without_polygons_is_never_found_by_a_mask():
  arrays = scene([(*BOX, 0)], [(*BOX, 0, 0.9)])
  arrays["gt_polygons"] = [[]]
  assert evaluate(arrays)["mask_AP"] == 0


# The protocol once more, plainly, after the paper and the rules of the LVIS challenge.


def plain_aps(scenes, kind, max_detections):
  """AP of each class in percent, None without ground truth."""
  thresholds = np.linspace(0.5, 0.95, 10)
  outcomes = {c: [] for c in range(len(NAMES))}  # (scores, hits [10, d], ignored [10, d])
  num_gt = np.zeros(len(NAMES), int)
  for arrays in scenes:
    best = sorted(range(len(arrays["det_scores"])), key=lambda i: -arrays["det_scores"][i])
    best = best[:max_detections]
    present = set(arrays["gt_classes"].tolist())
    for c in present | set(arrays["negative"].tolist()):
      gt = [i for i, own in enumerate(arrays["gt_classes"]) if own == c]
      found = [i for i in best if arrays["det_classes"][i] == c]
      if kind == "mask":
        found = [i for i in found if coco_mask.area(_runs(arrays, [i]))[0]]
      num_gt[c] += len(gt)
      overlaps = _overlaps(arrays, kind, found, gt)
      hits = np.zeros((10, len(found)), bool)
      for t, threshold in enumerate(thresholds):
        free = list(range(len(gt)))
        for row in range(len(found)):
          candidates = [g for g in free if overlaps[row][g] >= min(threshold, 1 - 1e-10)]
          if candidates:
            # The last one of equals, as the matching loop of pycocotools leaves it.
            match = max(candidates, key=lambda g: (overlaps[row][g], g))
            free.remove(match)
            hits[t, row] = True
      ignored = ~hits if c in arrays["not_exhaustive"] else np.zeros_like(hits)
      outcomes[c].append((arrays["det_scores"][found], hits, ignored))
  return [_average_precision(outcomes[c], num_gt[c]) for c in range(len(NAMES))]


def _overlaps(arrays, kind, found, gt):
  if not found or not gt:
    return np.zeros((len(found), len(gt)))
  if kind == "box":

    def xywh(box):
      return [*box[:2], *(box[2:] - box[:2])]

    one = [xywh(arrays["det_boxes"][i]) for i in found]
    other = [xywh(arrays["gt_boxes"][i]) for i in gt]
  else:
    one = _runs(arrays, found)
    other = [
      coco_mask.merge(
        coco_mask.frPyObjects([p.ravel().tolist() for p in arrays["gt_polygons"][i]], SIZE, SIZE)
      )
      for i in gt
    ]
  return coco_mask.iou(one, other, [0] * len(other))


def _runs(arrays, rows):
  return encode_masks(arrays["det_masks"][rows], arrays["det_boxes"][rows], SIZE, SIZE)


def _average_precision(outcomes, num_gt):
  if not num_gt:
    return None
  order = np.argsort(-np.concatenate([scores for scores, _, _ in outcomes]), kind="stable")
  hits = np.concatenate([h for _, h, _ in outcomes], axis=1)[:, order]
  ignored = np.concatenate([i for _, _, i in outcomes], axis=1)[:, order]
  precisions = []
  for hit, skip in zip(hits, ignored):
    true = np.cumsum(hit & ~skip)
    false = np.cumsum(~hit & ~skip)
    precision = true / (true + false + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / num_gt, np.linspace(0, 1, 101), side="left")
    precisions.append([precision[p] if p < len(precision) else 0.0 for p in places])
  return 100 * np.mean(precisions)


def random_scene(rng):
  """Objects with jittered, duplicated, equally scored detections of right and wrong classes."""
  gt, detections = [], []
  for _ in range(rng.integers(0, 6)):
    corner, size = rng.integers(0, 60, 2), rng.integers(5, 40, 2)
    gt.append((*corner, *(corner + size), rng.integers(0, len(NAMES) - 1)))
  for row in gt:
    for _ in range(rng.integers(0, 5)):
      box = np.clip(np.array(row[:4]) + rng.normal(0, 2, 4), 0, SIZE)
      box[2:] = np.maximum(box[2:], box[:2] + 1)
      found = row[4] if rng.random() < 0.8 else rng.integers(0, len(NAMES))
      detections.append((*box, found, rng.integers(1, 8) / 8))
  for _ in range(rng.integers(0, 5)):
    corner, size = rng.random(2) * 60, 1 + rng.random(2) * 39
    box = (*corner, *(corner + size))
    detections.append((*box, rng.integers(0, len(NAMES)), rng.integers(1, 8) / 8))
  classes = {row[4] for row in gt}
  absent = [c for c in range(len(NAMES)) if c not in classes and rng.random() < 0.4]
  partly = [c for c in classes if rng.random() < 0.3]
  arrays = scene(gt, detections, absent, partly)
  # Two polygons that leave a corner of the box free, and masks with holes.
  arrays["gt_polygons"] = [
    [square(x1, y1, (x1 + x2) / 2, y2), square(x1, (y1 + y2) / 2, x2, y2)]
    for x1, y1, x2, y2 in arrays["gt_boxes"]
  ]
  arrays["det_masks"] = (rng.random((len(detections), 7, 7)) < 0.9).astype(np.float32)
  arrays["det_masks"][rng.random(len(detections)) < 0.1] = 0
  return arrays


# What the lvis package (0.5.3) gives for the scenes below: AP of each class but the last.
OF_PACKAGE = {
  (4, "box"): [20.8128327463, 15.6446300348, 16.3167479332, 17.3302649689, 11.3246784992],
  (4, "mask"): [5.3132270995, 4.9452878865, 4.3316126484, 5.8922675676, 3.2487650551],
  (300, "box"): [25.3142098679, 21.7861784593, 22.0511861139, 27.4298860260, 16.0081127124],
  (300, "mask"): [6.6028681697, 7.3514424252, 5.8078549600, 8.8280449968, 4.2967158676],
}


@pytest.mark.parametrize("max_detections", [4, 300])
def test_aps_equal_the_plain_protocol_and_the_lvis_package(max_detections):
  rng = np.random.default_rng(0)
  scenes = [random_scene(rng) for _ in range(80)] + [scene()]
  results = evaluate(*scenes, max_detections=max_detections)
  for kind in ("box", "mask"):
    expected = plain_aps(scenes, kind, max_detections)
    found = [results["per_class"][name][f"{kind}_AP"] for name in NAMES]
    assert [value is None for value in found] == [value is None for value in expected]
    assert found[5] is None
    np.testing.assert_allclose(found[:5], expected[:5], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[:5], OF_PACKAGE[max_detections, kind], rtol=0, atol=1e-9)
    assert 1 < results[f"{kind}_AP"] < 90
    of_rare = [value for value, f in zip(expected, FREQUENCIES) if f == "r"]
    assert results[f"{kind}_APr"] == pytest.approx(np.mean(of_rare), abs=1e-9)
  counts = np.bincount(np.concatenate([s["gt_classes"] for s in scenes]), minlength=len(NAMES))
  assert [results["per_class"][name]["num_gt"] for name in NAMES] == counts.tolist()


def test_shares_of_the_images_add_up():
  rng = np.random.default_rng(2)
  scenes = [random_scene(rng) for _ in range(30)]
  images = [image(i + 1, arrays) for i, arrays in enumerate(scenes)]
  check_shares_add_up(lambda: LvisEvaluator(NAMES, FREQUENCIES), images)


def test_the_order_of_images_does_not_matter():
  rng = np.random.default_rng(1)
  scenes = [random_scene(rng) for _ in range(30)]
  assert evaluate(*scenes) == evaluate(*scenes, order=rng.permutation(30))


def test_without_masks_boxes_alone_are_evaluated():
  arrays = scene([(*BOX, 0)], [(*BOX, 0, 0.9)])
  arrays.update(gt_polygons=None, det_masks=None)
  results = evaluate(arrays, masks=False)
  assert results["box_AP"] == pytest.approx(100) and "mask_AP" not in results
  with pytest.raises(ValueError, match=r"image 1: polygons has None rows, expected 1"):
    evaluate(arrays)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("det_boxes", np.array([[0, 0, np.nan, 1]]), "image 1, detections: boxes are not finite"),
    ("det_scores", np.array([0.5, 0.4]), r"scores have shape \(2,\), expected \(1,\)"),
    ("gt_classes", np.array([6]), r"image 1, ground truth: classes span 6..6, expected 0..5"),
    ("det_masks", np.ones((2, 4, 4)), "image 1: masks has 2 rows, expected 1"),
  ],
)
def test_bad_arrays_name_the_image(key, value, message):
  with pytest.raises(ValueError, match=message):
    evaluate({**scene([(*BOX, 0)], [(*BOX, 0, 0.9)]), key: value})


def test_bad_use_is_refused():
  with pytest.raises(ValueError, match=r"frequencies \['c', 'x'\]"):
    LvisEvaluator(("a", "b"), ("c", "x"))
  with pytest.raises(ValueError, match="no image"):
    LvisEvaluator(NAMES, FREQUENCIES).compute()
  evaluator = LvisEvaluator(NAMES, FREQUENCIES)
  evaluator.add(*image(1, scene()))
  with pytest.raises(ValueError, match="image 1 was added twice"):
    evaluator.add(*image(1, scene()))


_MEMORY = """
import numpy as np
from made_records import make_record
from rkd_jax.evaluation.lvis import LvisEvaluator

rng = np.random.default_rng(0)
names = [str(i) for i in range(1203)]
evaluator = LvisEvaluator(names, ["f"] * 1203)
low = rng.uniform(0, 60, (300, 2))
boxes = np.concatenate([low, low + rng.uniform(2, 40, (300, 2))], 1)
masks = rng.random((300, 28, 28)).astype(np.float32)
triangle = [np.array([[3.0, 3], [40, 3], [40, 40]])]
for image in range(600):
  gt_classes = rng.choice(1203, 12, replace=False)
  record = make_record(
    0, image_id=image, height=100, width=100, boxes=boxes[:12], classes=gt_classes,
    polygons=[triangle] * 12, negative_labels=rng.choice(1203, 8), not_exhaustive_labels=[],
  )
  scores, classes = rng.random(300), rng.integers(0, 1203, 300)
  evaluator.add(record, {"boxes": boxes, "scores": scores, "classes": classes, "masks": masks})
  if image in (99, 599):
    # ru_maxrss would begin with that of the process that started this one.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(status["VmHWM"].split()[0])
"""


@pytest.mark.faults
def test_memory_does_not_hold_the_detections_of_all_images():
  """From 100 to 600 images of 300 detections each less than 25 MB: below 1 GB for 20,000."""
  tests = str(Path(__file__).parents[1])
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": tests}
  run = subprocess.run(
    [sys.executable, "-c", _MEMORY], env=environment, capture_output=True, text=True, check=True
  )
  early, late = map(int, run.stdout.split())
  assert late - early < 25_000, f"{early} kB, then {late} kB"
