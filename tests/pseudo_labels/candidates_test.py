"""The best candidates of each class against a sort of all of them in plain Python."""

import numpy as np
import pytest

from rkd_jax.pseudo_labels.candidates import Best, joined, limited
from tests.made_regions import make_candidates


def _sorted(found, label, count, per_image):
  """(key, image, split, region) of those kept, by the definition."""
  entries = zip(found.keys, found.image_ids, found.splits, found.regions, found.labels)
  own = sorted(
    (-key, image, split, region) for key, image, split, region, of in entries if of == label
  )
  kept, taken = [], {}
  for key, image, split, region in own:
    taken[image, split] = taken.get((image, split), 0) + 1
    if taken[image, split] <= per_image:
      kept.append((-key, image, split, region))
  return kept[:count]


def _entries(found):
  return list(zip(found.keys, found.image_ids, found.splits, found.regions))


@pytest.mark.parametrize("count, per_image", [(1, 1), (5, 1), (5, 2), (100, 3), (100, 100)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_are_those_of_a_sort(seed, count, per_image):
  found, best = make_candidates(seed), Best(count, per_image)
  # Images come one after the other, in any order.
  for image in np.random.default_rng(seed).permutation(8):
    part = found.take(np.flatnonzero(found.image_ids == image))
    if len(part):
      best.add(part)
  for label in range(3):
    assert _entries(best.of(label)) == _sorted(found, label, count, per_image)
    assert (best.of(label).labels == label).all()
  assert [part.labels[0] for part in best.all()] == [0, 1, 2] and best.of(3) is None


def test_all_at_once_is_one_after_the_other():
  found = make_candidates(3)
  whole, parts = Best(6, 2), Best(6, 2)
  whole.add(found)
  for image in range(8):
    parts.add(found.take(np.flatnonzero(found.image_ids == image)))
  for own, other in zip(whole.all(), parts.all(), strict=True):
    for name, column in vars(own).items():
      np.testing.assert_array_equal(column, getattr(other, name), err_msg=name)


def test_what_is_below_the_least_key_changes_nothing():
  found, best, pruned = make_candidates(4, count=120), Best(4, 1), Best(4, 1)
  for image in range(8):
    part = found.take(np.flatnonzero(found.image_ids == image))
    best.add(part)
    pruned.add(part.take(np.flatnonzero(part.keys >= pruned.least(3)[part.labels])))
  assert np.isfinite(pruned.least(3)).all() and np.isneginf(Best(4, 1).least(3)).all()
  for own, other in zip(best.all(), pruned.all(), strict=True):
    assert _entries(own) == _entries(other)


def test_the_limit_is_for_each_class_and_image():
  found = limited(make_candidates(5), 2)
  groups = np.stack([found.labels, found.splits, found.image_ids], axis=1)
  _, counts = np.unique(groups, axis=0, return_counts=True)
  assert counts.max() == 2
  assert (np.diff(found.keys) <= 0).all()


def test_parts_keep_their_order():
  found = make_candidates(6)
  both = joined([found.take(np.arange(10)), found.take(np.arange(10, 60))])
  assert _entries(both) == _entries(found)
  assert len(found.of_image(1, 3)) == ((found.splits == 1) & (found.image_ids == 3)).sum()
