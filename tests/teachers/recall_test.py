"""How much of what is annotated the regions hold, and when it is said."""

from types import SimpleNamespace

import numpy as np

from rkd_jax.teachers import recall

BOXES = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32)
REGIONS = np.array([[0, 0, 10, 5], [0, 0, 10, 4.9], [25, 20, 45, 40]], np.float32)
GROWN = {"regions": 5, "proposer": {"name": "RegionGrowing"}}


def test_a_box_is_held_from_an_iou_of_one_half_on():
  found = recall.Recall()
  assert found.part is None
  found.add(BOXES, REGIONS[1:2])
  assert found.part == 0
  found.add(BOXES, REGIONS)
  # The first by 50 / 100, the second by 300 / 500.
  assert (found.boxes, found.held, found.part) == (4, 2, 0.5)
  found.add(np.zeros((0, 4), np.float32), REGIONS)
  found.add(BOXES, np.zeros((0, 4), np.float32))
  assert (found.boxes, found.held) == (6, 2)


def test_less_than_thirty_percent_is_a_warning_with_the_remedies():
  line = recall.told(0.3, "train", GROWN, "9 images")
  assert "train: the regions, at most 5 an image, hold 30.0% of" in line
  assert "WARNING" not in line
  line = recall.told(0.29, "train", GROWN, "9 images")
  assert "WARNING: that is less than 30%" in line and "--proposals=rpn" in line
  rpn = {**GROWN, "proposer": {"name": "DetectorProposer"}}
  line = recall.told(0.29, "train", rpn, "9 images")
  assert "longer training" in line and "--proposals=mvit" in line and "=rpn" not in line
  assert "no annotated boxes" in recall.told(None, "train", GROWN, "9 images")


def test_the_first_images_are_told_of_once(monkeypatch):
  monkeypatch.setattr(recall, "FIRST", 3)
  record = SimpleNamespace(boxes=BOXES, is_crowd=np.array([False, True]))
  said = []
  look = recall.FirstLook([record] * 6, "train", {**GROWN, "regions": 1}, said.append)
  # Of two regions only the first is kept.
  image = SimpleNamespace(boxes=REGIONS[[2, 0]])
  look([0, 1], [image, image])
  assert said == []
  held = SimpleNamespace(boxes=REGIONS)
  look([2, 3], [held, held])
  look([4, 5], [held, held])
  (line,) = said
  assert "hold 50.0% of the annotated boxes of the first 4 images" in line
