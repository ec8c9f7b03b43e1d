"""Kinds of errors by hand: precision and recall, sizes, confusions, TIDE, images."""

import numpy as np
import pytest
from made_records import make_record

from rkd_jax.evaluation.diagnosis import Diagnosis

NAMES = ("cat", "dog", "owl", "fox")
EVALUATED = ("cat", "dog", "owl")


def image(image_id, objects, detections, **more):
  """Rows (x1, y1, x2, y2, class[, crowd]) and (x1, y1, x2, y2, class, score)."""
  objects = np.array([(*row, 0)[:6] for row in objects], np.float32).reshape(-1, 6)
  rows = np.array(detections, np.float32).reshape(-1, 6)
  boxes = objects[:, :4]
  record = make_record(
    0,
    image_id=image_id,
    height=200,
    width=200,
    boxes=boxes,
    classes=objects[:, 4].astype(np.int32),
    is_crowd=objects[:, 5] > 0,
    areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    **more,
  )
  return record, {"boxes": rows[:, :4], "classes": rows[:, 4].astype(int), "scores": rows[:, 5]}


def diagnosis(*images):
  records, found = zip(*images)
  return Diagnosis(records, found, NAMES, EVALUATED, 100)


SMALL, LARGE, AWAY = (0, 0, 20, 20), (50, 50, 150, 150), (160, 160, 190, 190)
# A cat that is found, a dog that is called an owl, a cat where nothing is, a class without
# annotations; then a dog that is missed, beside a crowd of cats.
ONE = image(
  7,
  [(*SMALL, 0), (*LARGE, 1)],
  [(*SMALL, 0, 0.9), (*LARGE, 2, 0.8), (*AWAY, 0, 0.7), (*AWAY, 3, 0.95)],
)
TWO = image(9, [(*LARGE, 1), (*AWAY, 0, 1)], [(*AWAY, 0, 0.6), (*SMALL, 1, 0.3)])


def test_precision_and_recall_by_hand():
  found = diagnosis(ONE, TWO)
  np.testing.assert_allclose(found.precision_recall(["cat"]), 1.0)  # the false one comes later
  np.testing.assert_allclose(found.precision_recall(["dog"]), 0.0)
  np.testing.assert_allclose(found.precision_recall(["cat", "dog", "owl"]), 0.5)
  assert found.precision_recall(["owl"]) is None  # no object
  # Found second: precision 1/2 at its only recall, 1.
  later = diagnosis(image(1, [(*SMALL, 0)], [(*AWAY, 0, 0.9), (*SMALL, 0, 0.5)]))
  np.testing.assert_allclose(later.precision_recall(["cat"]), 0.5)
  half = diagnosis(image(1, [(*SMALL, 0), (*LARGE, 0)], [(*SMALL, 0, 0.9)]))
  np.testing.assert_allclose(half.precision_recall(["cat"]), [1.0] * 51 + [0.0] * 50)


def test_sizes_have_their_own_objects_and_average_precision():
  found = diagnosis(ONE, TWO)
  counts = [found.objects(EVALUATED, size) for size in ("small", "medium", "large")]
  assert counts == [1, 0, 2] and found.objects(EVALUATED) == 3
  assert found.average_precision(EVALUATED, "small") == pytest.approx((100, 100))
  assert found.average_precision(EVALUATED, "medium") == (None, None)
  assert found.average_precision(EVALUATED, "large") == (0.0, 0.0)
  assert found.average_precision(["cat"]) == pytest.approx((100, 100))


def test_confusions_by_hand():
  found = diagnosis(ONE, TWO).confusion(min_score=0.5)
  assert found.names == EVALUATED
  # Rows: cat, dog, owl, nothing; columns: cat, dog, owl, not found.
  assert found.counts[:3].tolist() == [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
  assert found.counts[3, 0] == 2  # the cat where nothing is, and the one in the crowd
  np.testing.assert_allclose(found.parts[1], [0, 0, 0.5, 0.5])
  assert found.pairs() == [("dog", "owl", 1)]
  assert found.most_confused(2).tolist() == [1, 2]
  assert diagnosis(ONE).confusion(min_score=0.85).pairs() == []


def test_kinds_of_errors_by_hand():
  counts = {kind: count for kind, (_, count) in diagnosis(ONE, TWO).tide().items()}
  assert counts == {"Cls": 1, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 2, "Miss": 1}
  shifted = (50, 50, 95, 150)  # an IoU of 0.45
  second = image(1, [(*LARGE, 0)], [(*LARGE, 0, 0.9), (*LARGE, 0, 0.8), (*shifted, 0, 0.7)])
  counts = {kind: count for kind, (_, count) in diagnosis(second).tide().items()}
  assert counts["Dupe"] == 1 and counts["Loc"] == 1
  gain, _ = diagnosis(image(1, [(*LARGE, 0)], [(*shifted, 0, 0.7)])).tide()["Loc"]
  assert gain == pytest.approx(100, abs=1)


def test_images_have_hits_false_and_missed_objects():
  found = diagnosis(ONE, TWO)
  first = found.of_image(0, 0.5)
  assert {key: rows.tolist() for key, rows in first.items()} == {
    "hits": [0],
    "false": [1, 2],
    "missed": [1],
  }
  assert found.of_image(1, 0.5)["missed"].tolist() == [0]  # and not the crowd
  assert found.of_image(1, 0.2)["false"].tolist() == [1]
  # 2 * 1 / (2 * 1 + 2 false + 1 missed); nothing of one missed; nothing to find.
  empty = diagnosis(ONE, TWO, image(3, [], []))
  np.testing.assert_allclose(empty.f1_of_images(0.5), [0.4, 0, np.nan])


def test_federated_images_count_what_was_looked_for():
  lists = {"negative_labels": np.array([2], np.int32), "not_exhaustive_labels": np.array([], int)}
  found = diagnosis(image(1, [(*SMALL, 0)], [(*AWAY, 1, 0.9), (*AWAY, 2, 0.8)], **lists))
  assert found.federated
  assert found.of_image(0, 0.5)["false"].tolist() == [1]  # no dog was looked for


def test_no_detections_at_all():
  found = diagnosis(image(1, [(*SMALL, 0)], []))
  assert found.average_precision(["cat"]) == (0.0, 0.0)
  assert found.tide()["Miss"][1] == 1 and found.confusion(0.5).pairs() == []
