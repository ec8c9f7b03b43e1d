"""Sheets of boxes of a few pixels."""

import dataclasses

import numpy as np
from PIL import Image

from rkd_jax.pseudo_labels import looks
from tests import made_records
from tests.made_regions import RecordSplit, boxes_found

OWN, OTHER = [1, 2, 9, 12], [4, 4, 14, 20]


def test_sheets_have_a_row_for_each_class(monkeypatch):
  monkeypatch.setattr(looks, "ROWS", 2)
  sources = [RecordSplit([made_records.make_record(i) for i in range(3)])]
  bad = dataclasses.replace(made_records.make_record(3), image=b"no image")
  sources.append(RecordSplit([bad]))
  found = [
    boxes_found((0, 100, OWN), (1, 103, OWN), label=1),
    boxes_found((0, 101, OTHER), label=2),
    boxes_found((0, 102, OWN), label=5),
  ]
  drawn = list(looks.sheets(sources, found, [own.keys for own in found]))
  assert [picture.shape[0] > 2 * looks.CELL for picture in drawn] == [True, False]
  # The second picture of the first class cannot be read.
  assert (drawn[0][: looks.CELL, 2 * looks.CELL :] == 255).all(-1).mean() > 0.95


def test_a_box_is_cut_out_with_its_surroundings():
  image = np.zeros((60, 80, 3), np.uint8)
  image[20:40, 30:50] = 200
  cut = looks.cut_out(Image.fromarray(image), np.array([30, 20, 50, 40], np.float32))
  factor = len(cut) // 34
  assert cut.shape[:2] == (34 * factor, 34 * factor) and len(cut) >= looks.CELL
  assert cut[len(cut) // 2, len(cut) // 2].tolist() == [200, 200, 200] and cut[2, 2].max() == 0
  # Beyond the image there is nothing, and a box without area has a picture, too.
  assert looks.cut_out(Image.fromarray(image), np.array([70, 50, 90, 70], "f")).size
  assert looks.cut_out(Image.fromarray(image), np.array([5, 5, 5, 5], "f")).size
