import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from rkd_jax.detect.result import Result


def runs(mask):
  encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
  return {"size": list(mask.shape), "counts": str(encoded["counts"], "ascii")}


@pytest.fixture
def masks():
  masks = np.zeros((2, 40, 60), bool)
  masks[0, 10:30, 20:50] = True
  masks[1, :5] = True
  return masks


@pytest.fixture
def result(masks):
  return Result(
    boxes=np.array([[20, 10, 50, 30], [0.1, 0, 60, 5]], np.float32),
    scores=np.array([0.9, 0.3], np.float32),
    classes=np.array([1, 0]),
    names=("dog", "cat"),
    segmentations=[runs(mask) for mask in masks],
    size=(40, 60),
    image=Image.new("RGB", (60, 40), "white"),
    name="a.png",
    base=frozenset(["dog"]),
  )


def test_words_and_masks_of_the_boxes(result, masks):
  assert len(result) == 2 and result.labels == ["cat", "dog"]
  np.testing.assert_array_equal(result.masks, masks)
  nothing = result.above(1.0)
  assert len(nothing) == 0 and nothing.labels == [] and nothing.masks.shape == (0, 40, 60)


def test_a_limit_for_all_words_or_for_each(result):
  assert result.above(0.5).labels == ["cat"]
  kept = result.above({"cat": 0.95, "dog": 0.2})
  assert kept.labels == ["dog"] and len(kept.segmentations) == 1
  np.testing.assert_array_equal(kept.boxes, result.boxes[1:])


def test_probabilities_stay_with_their_boxes(result):
  def chance(names, scores, classes):
    assert names == ("dog", "cat")
    return scores / 2 + classes / 8

  found = result.with_probabilities(chance)
  np.testing.assert_allclose(found.probabilities, [0.575, 0.15])
  assert found.above({"cat": 0.95, "dog": 0.2}).probabilities == pytest.approx([0.15])
  assert [own.pop("probability") for own in found.to_coco()] == pytest.approx([0.575, 0.15])
  assert result.probabilities is None and result.above(0.5).probabilities is None
  assert "probability" not in result.to_coco()[0]


def test_coco_results(result):
  first, second = result.to_coco(7, {"cat": 17, "dog": 18})
  assert first == {
    "image_id": 7,
    "category_id": 17,
    "category": "cat",
    "bbox": [20.0, 10.0, 30.0, 20.0],
    "score": 0.9,
    "segmentation": result.segmentations[0],
  }
  # What was rounded to float32 is read back as it was.
  assert np.float32(second["bbox"][0]) == np.float32(0.1) and second["bbox"][0] == 0.1
  assert [entry["category_id"] for entry in result.to_coco()] == [2, 1]


def test_the_picture_has_the_boxes(result):
  picture = np.asarray(result.draw())
  assert picture.shape[0] * 60 == picture.shape[1] * 40 and (picture != 255).any()
  # At another scale masks come along.
  small = result.draw_on(np.full((20, 30, 3), 255, np.uint8))
  assert small.shape[0] * 30 == small.shape[1] * 20 and (small != 255).any()
  bare = Result(
    *(getattr(result, n) for n in ("boxes", "scores", "classes", "names")), None, (40, 60)
  )
  with pytest.raises(ValueError, match="was not kept"):
    bare.draw()
  assert bare.masks is None and "segmentation" not in bare.to_coco()[0]


def test_supervision_is_no_requirement(result, monkeypatch):
  monkeypatch.setitem(sys.modules, "supervision", None)
  with pytest.raises(ImportError, match="pip install supervision"):
    result.to_supervision()
