"""One pass over made results against a look at all regions at once."""

import math

import numpy as np
import pytest

from rkd_jax.pseudo_labels import retrieval
from rkd_jax.pseudo_labels.retrieval import Rule, retrieve, similarities_of
from tests.made_regions import DIM, make_split

TEXT = np.random.default_rng(9).normal(size=(4, DIM)).astype(np.float32)


def _all_regions(sources):
  """(split, image id, region, box, objectness, cosines with all classes) in plain Python."""
  for split, source in enumerate(sources):
    for index, image_id in enumerate(source.image_ids.tolist()):
      result = source.result(index)
      for region, embedding in enumerate(result["regions/clip_embeddings"].astype(np.float64)):
        cosines = [
          sum(a * b for a, b in zip(embedding, row)) / math.hypot(*embedding) / math.hypot(*row)
          for row in TEXT.astype(np.float64)
        ]
        objectness = result["regions/scores"][region]
        yield split, image_id, region, objectness, cosines


def _expected(sources, label, rule):
  """Places (split, image id, region) with scores, the best first."""
  found = []
  for split, image_id, region, objectness, cosines in _all_regions(sources):
    score, allowed = cosines[label], objectness >= rule.objectness
    if rule.softmax:
      powers = [math.exp(rule.softmax * cosine) for cosine in cosines]
      score = powers[label] / sum(powers)
      allowed &= max(cosines) == cosines[label]
    if rule.threshold is not None:
      allowed &= score > rule.threshold
    if allowed:
      found.append((-score, image_id, split, region))
  kept, taken = [], {}
  for score, image_id, split, region in sorted(found):
    taken[split, image_id] = taken.get((split, image_id), 0) + 1
    if taken[split, image_id] <= rule.per_image:
      kept.append((split, image_id, region, -score))
  return kept[: rule.top]


@pytest.mark.parametrize(
  "rule",
  [
    Rule(top=7),
    Rule(top=1000, per_image=2),
    Rule(top=9, softmax=5.0),
    Rule(top=50, softmax=5.0, threshold=0.6, per_image=3),
    Rule(top=50, threshold=0.5),
    Rule(top=20, objectness=0.5),
  ],
  ids=str,
)
@pytest.mark.parametrize("block", [3, 256])
def test_retrieved_regions_are_those_of_a_look_at_all(rule, block, monkeypatch):
  monkeypatch.setattr(retrieval, "_BLOCK", block)
  # The two splits have image ids in common.
  sources = [make_split(0), make_split(1, images=25, split="more", ids=np.arange(25) + 110)]
  found = retrieve(sources, TEXT, [0, 2], rule)
  assert found.best.of(1) is None and found.best.of(3) is None
  for label in (0, 2):
    own, expected = found.best.of(label), _expected(sources, label, rule)
    places = list(zip(own.splits, own.image_ids, own.regions))
    assert places == [entry[:3] for entry in expected] and places
    scores = rule.scores(own.keys)
    np.testing.assert_allclose(scores, [entry[3] for entry in expected], rtol=1e-5)
    for row, (split, image_id, region) in enumerate(places):
      index = sources[split].image_ids.tolist().index(image_id)
      result = sources[split].result(index)
      np.testing.assert_array_equal(own.boxes[row], result["regions/boxes"][region])
      cosine = similarities_of(result["regions/clip_embeddings"], TEXT)[region, label]
      assert own.similarities[row] == np.float32(cosine)
  assert found.regions == len(list(_all_regions(sources)))


def test_equal_regions_go_by_image_id_whatever_the_order_of_the_records():
  source = make_split(2, images=9, most=1)
  twin = np.ones((1, DIM), np.float32)
  for index in range(9):
    source.made[index] = {
      "regions/boxes": np.full((1, 4), index, np.float32),
      "regions/scores": np.ones(1, np.float32),
      # Multiples have the same direction.
      "regions/clip_embeddings": twin * 2.0 ** (index % 3),
    }
  found = retrieve([source], TEXT, [1], Rule(top=4)).best.of(1)
  assert found.image_ids.tolist() == sorted(source.image_ids.tolist())[:4]


def test_a_region_goes_to_one_class_with_a_softmax_and_to_any_without():
  source = make_split(3)
  every = [retrieve([source], TEXT, range(4), Rule(1000, 10, scale)).best for scale in (0.0, 20.0)]
  total = sum(len(result["regions/boxes"]) for result in source.made)
  assert [sum(map(len, best.all())) for best in every] == [4 * total, total]


def test_probabilities_of_one_still_have_an_order():
  similarities = np.array([[0.9, 0.1], [0.8, 0.1], [0.1, 0.7]])
  rule = Rule(softmax=400.0)
  keys = rule.keys(similarities)
  assert (rule.scores(keys)[:2, 0] == 1).all() and keys[0, 0] > keys[1, 0] > 0
  np.testing.assert_allclose(keys[[0, 1, 2], [0, 0, 1]], [320, 280, 240], rtol=1e-6)
  assert np.isneginf(keys[[0, 1, 2], [1, 1, 0]]).all()


def test_the_sample_and_the_mean_are_of_all_regions():
  sources = [make_split(4), make_split(5)]
  rows = np.concatenate([r["regions/clip_embeddings"] for s in sources for r in s.made])
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  found = retrieve(sources, TEXT, [0], Rule(), sample=30)
  np.testing.assert_allclose(found.mean, rows.mean(0), atol=1e-6)
  assert found.sample.shape == (30, DIM)
  places = [np.flatnonzero(np.abs(rows - row).max(1) < 1e-6) for row in found.sample]
  assert all(len(place) == 1 for place in places)
  places = np.concatenate(places)
  assert len(set(places)) == 30 and places.max() > 60
  np.testing.assert_array_equal(found.sample_classes, similarities_of(rows, TEXT).argmax(1)[places])
  again = retrieve(sources, TEXT, [0], Rule(), sample=30)
  np.testing.assert_array_equal(again.sample, found.sample)
  assert len(retrieve(sources, TEXT, [0], Rule(), sample=1000).sample) == len(rows)


def test_a_split_without_regions_gives_none():
  found = retrieve([make_split(6, most=0)], TEXT, [0], Rule(softmax=10.0), sample=5)
  assert found.best.all() == [] and len(found.sample) == 0 and found.regions == 0


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"top": 0}, "top=0: expected at least 1"),
    ({"per_image": 0}, "per_image=0"),
    ({"softmax": -1.0}, r"softmax=-1\.0"),
    ({"softmax": math.nan}, "softmax=nan"),
  ],
)
def test_rules_that_cannot_be(settings, message):
  with pytest.raises(ValueError, match=message):
    Rule(**settings)


def test_a_softmax_needs_classes_to_compare():
  with pytest.raises(ValueError, match="only one: use softmax=0"):
    retrieve([make_split(7)], TEXT[:1], [0], Rule(softmax=50.0))


def test_memory_is_of_what_is_kept():
  """No class holds more than its number while results stream by."""
  seen = []

  class Watched(retrieval.Best):
    def add(self, found):
      super().add(found)
      seen.append(max(map(len, self.all())))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(retrieval, "_BLOCK", 4)
    patch.setattr(retrieval, "Best", Watched)
    retrieve([make_split(8, images=60)], TEXT, range(4), Rule(top=5))
  assert len(seen) > 10 and max(seen) == 5
