"""What is said of retrieved boxes, by hand."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from rkd_jax.pseudo_labels import looks, summary
from rkd_jax.pseudo_labels.candidates import Candidates
from tests import made_records

NAMES = made_records.FakeSource.class_names


class _Split(made_records.FakeSource):
  """Records 100, 101 ..., each with a box of class 3 and one of class 2 that is no crowd."""

  name, split, has_all_boxes = "made/train", "train", False

  def __init__(self, records, **changes):
    super().__init__(records)
    self.index = SimpleNamespace(image_ids=np.array([record.image_id for record in records]))
    vars(self).update(changes)


def _found(*rows, label=3):
  """Rows of (split, image id, box), the best first."""
  splits, image_ids, boxes = zip(*rows)
  return Candidates(
    keys=np.linspace(1, 0.5, len(rows)).astype(np.float32),
    image_ids=np.array(image_ids),
    splits=np.array(splits),
    regions=np.zeros(len(rows), np.int64),
    labels=np.full(len(rows), label),
    similarities=np.linspace(0.4, 0.2, len(rows)).astype(np.float32),
    boxes=np.array(boxes, np.float32),
    embeddings=np.zeros((len(rows), 0), np.float32),
  )


OWN, OTHER, CROWD, NOWHERE = [1, 2, 9, 12], [4, 4, 14, 20], [0, 0, 5, 5], [20, 0, 25, 5]


def test_boxes_are_compared_with_those_of_their_own_image():
  sources = [_Split([made_records.make_record(i) for i in range(3)])]
  rows = (0, 100, OWN), (0, 101, NOWHERE), (0, 101, OTHER), (0, 102, CROWD)
  assert summary.assess(sources, _found(*rows)) == {"precision": 1 / 4, "on_another_class": 1 / 4}
  # Of class 0 the images have no boxes, so that nothing is known but that others are there.
  found = summary.assess(sources, _found(*rows, label=0))
  assert found == {"precision": None, "on_another_class": 2 / 4}
  sources[0].has_all_boxes = True
  assert summary.assess(sources, _found(*rows, label=0))["precision"] == 0


def test_splits_with_the_same_ids_are_told_apart():
  plain = made_records.make_record(0)
  none = dataclasses.replace(
    plain,
    boxes=plain.boxes[:0],
    classes=plain.classes[:0],
    is_crowd=plain.is_crowd[:0],
  )
  sources = [_Split([plain]), _Split([none])]
  found = summary.assess(sources, _found((0, 100, OWN), (1, 100, OWN)))
  assert found == {"precision": 1.0, "on_another_class": 0.0}
  assert summary.assess(sources, _found((1, 100, OWN)))["precision"] is None


def test_the_summary_counts_every_class_that_was_wanted():
  sources = [_Split([made_records.make_record(i) for i in range(3)])]
  found = [_found((0, 100, OWN), (0, 101, NOWHERE))]
  content = summary.summarize(sources, found, [3, 5], [np.array([0.9, 0.7])])
  assert content["boxes"] == 2 and content["without"] == [NAMES[5]]
  own = content["classes"][NAMES[3]]
  assert own["count"] == 2 and own["precision"] == 0.5 and own["on_another_class"] == 0
  assert own["mean_score"] == pytest.approx(0.8)
  assert own["mean_similarity"] == pytest.approx(0.3)
  lines = summary.told(content).splitlines()
  assert lines[1].split() == [NAMES[3], "2", "0.800", "0.300", "50.0%", "0.0%"]
  assert lines[2].split() == [NAMES[5], "0", "-", "-", "-", "-"]


def test_sheets_have_a_row_for_each_class(monkeypatch):
  monkeypatch.setattr(looks, "ROWS", 2)
  sources = [_Split([made_records.make_record(i) for i in range(3)])]
  bad = dataclasses.replace(made_records.make_record(3), image=b"no image")
  sources.append(_Split([bad]))
  found = [
    _found((0, 100, OWN), (1, 103, OWN), label=1),
    _found((0, 101, OTHER), label=2),
    _found((0, 102, OWN), label=5),
  ]
  drawn = list(looks.sheets(sources, found, [own.keys for own in found]))
  assert [picture.shape[0] > 2 * looks.CELL for picture in drawn] == [True, False]
  # The second picture of the first class cannot be read.
  assert (drawn[0][: looks.CELL, 2 * looks.CELL :] == 255).all(-1).mean() > 0.95


def test_a_box_is_cut_out_with_its_surroundings():
  image = np.zeros((60, 80, 3), np.uint8)
  image[20:40, 30:50] = 200
  cut = looks.cut_out(looks.Image.fromarray(image), np.array([30, 20, 50, 40], np.float32))
  factor = len(cut) // 34
  assert cut.shape[:2] == (34 * factor, 34 * factor) and len(cut) >= looks.CELL
  assert cut[len(cut) // 2, len(cut) // 2].tolist() == [200, 200, 200] and cut[2, 2].max() == 0
  # Beyond the image there is nothing, and a box without area has a picture, too.
  assert looks.cut_out(looks.Image.fromarray(image), np.array([70, 50, 90, 70], "f")).size
  assert looks.cut_out(looks.Image.fromarray(image), np.array([5, 5, 5, 5], "f")).size
