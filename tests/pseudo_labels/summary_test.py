"""What is said of retrieved boxes, by hand."""

import dataclasses

import numpy as np
import pytest

from rkd_jax.pseudo_labels import summary
from tests import made_records
from tests.made_regions import RecordSplit, boxes_found

NAMES = made_records.FakeSource.class_names


OWN, OTHER, CROWD, NOWHERE = [1, 2, 9, 12], [4, 4, 14, 20], [0, 0, 5, 5], [20, 0, 25, 5]


def test_boxes_are_compared_with_those_of_their_own_image():
  sources = [RecordSplit([made_records.make_record(i) for i in range(3)])]
  rows = (0, 100, OWN), (0, 101, NOWHERE), (0, 101, OTHER), (0, 102, CROWD)
  assert summary.assess(sources, boxes_found(*rows)) == {
    "precision": 1 / 4,
    "on_another_class": 1 / 4,
  }
  # Of class 0 the images have no boxes, so that nothing is known but that others are there.
  found = summary.assess(sources, boxes_found(*rows, label=0))
  assert found == {"precision": None, "on_another_class": 2 / 4}
  sources[0].has_all_boxes = True
  assert summary.assess(sources, boxes_found(*rows, label=0))["precision"] == 0


def test_splits_with_the_same_ids_are_told_apart():
  plain = made_records.make_record(0)
  none = dataclasses.replace(
    plain,
    boxes=plain.boxes[:0],
    classes=plain.classes[:0],
    is_crowd=plain.is_crowd[:0],
  )
  sources = [RecordSplit([plain]), RecordSplit([none])]
  found = summary.assess(sources, boxes_found((0, 100, OWN), (1, 100, OWN)))
  assert found == {"precision": 1.0, "on_another_class": 0.0}
  assert summary.assess(sources, boxes_found((1, 100, OWN)))["precision"] is None


def test_the_summary_counts_every_class_that_was_wanted():
  sources = [RecordSplit([made_records.make_record(i) for i in range(3)])]
  found = [boxes_found((0, 100, OWN), (0, 101, NOWHERE))]
  content = summary.summarize(sources, found, [3, 5], [np.array([0.9, 0.7])])
  assert content["boxes"] == 2 and content["without"] == [NAMES[5]]
  own = content["classes"][NAMES[3]]
  assert own["count"] == 2 and own["precision"] == 0.5 and own["on_another_class"] == 0
  assert own["mean_score"] == pytest.approx(0.8)
  assert own["mean_similarity"] == pytest.approx(0.3)
  lines = summary.told(content).splitlines()
  assert lines[1].split() == [NAMES[3], "2", "0.800", "0.300", "50.0%", "0.0%"]
  assert lines[2].split() == [NAMES[5], "0", "-", "-", "-", "-"]
