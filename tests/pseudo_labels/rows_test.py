"""Rows of the classifier: mixed as said, and towards what the regions have in common."""

import numpy as np
import pytest

from rkd_jax.pseudo_labels import rows
from rkd_jax.pseudo_labels.candidates import Best
from rkd_jax.pseudo_labels.retrieval import Retrieved
from tests.made_regions import make_candidates

RNG = np.random.default_rng(0)
TEXT = (3 * RNG.normal(size=(4, 6))).astype(np.float32)


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _retrieved(spread=0.3, count=40, sample=300):
  """Regions around a direction for each of the classes 1 and 3, and others; all share an offset."""
  rng = np.random.default_rng(1)
  centres, offset, best = 1.5 * np.eye(2, 6), 3 * np.eye(6)[5], Best(count, 1)
  for label, centre in zip((1, 3), centres):
    own = make_candidates(label, count=count, keys=100, images=count, width=6)
    vectors = _unit(offset + centre + spread * rng.normal(size=(count, 6))).astype(np.float32)
    own = own.take(np.arange(count))
    object.__setattr__(own, "labels", np.full(count, label))
    object.__setattr__(own, "image_ids", np.arange(count))
    object.__setattr__(own, "embeddings", vectors)
    best.add(own)
  others = _unit(offset + 0.5 * rng.normal(size=(sample, 6))).astype(np.float32)
  everything = np.concatenate([others, *(part.embeddings for part in best.all())])
  like = rng.integers(4, size=sample)
  return Retrieved(best, others, like, everything.mean(0), len(everything))


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_a_row_is_the_mix_of_two_unit_vectors_at_its_own_length(mix):
  directions = RNG.normal(size=(2, 6))
  found = rows.mix_rows(TEXT, directions, [1, 3], mix)
  np.testing.assert_array_equal(found[[0, 2]], TEXT[[0, 2]])
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(TEXT, axis=1), rtol=1e-6)
  expected = _unit((1 - mix) * _unit(TEXT[[1, 3]]) + mix * _unit(directions))
  np.testing.assert_allclose(_unit(found[[1, 3]]), expected, atol=1e-6)
  if mix == 0:
    np.testing.assert_array_equal(found, TEXT)


@pytest.mark.parametrize("mix", [-0.1, 1.01, float("nan")])
def test_a_part_beyond_all_is_refused(mix):
  with pytest.raises(ValueError, match=r"mix=.*expected 0"):
    rows.mix_rows(TEXT, TEXT[:1], [1], mix)


def test_the_mean_direction_is_that_of_the_class_less_that_of_all():
  retrieved = _retrieved()
  found = rows.directions("mean", retrieved, [1, 3])
  for row, label in zip(found, (1, 3)):
    own = retrieved.best.of(label).embeddings
    expected = sum(own) / len(own) - retrieved.mean
    np.testing.assert_allclose(row, _unit(expected), atol=1e-6)


@pytest.mark.parametrize("kind", rows.DIRECTIONS)
def test_directions_tell_their_regions_from_others(kind):
  """Better than the mean of the class itself, which is like all regions."""
  retrieved = _retrieved()
  found = rows.directions(kind, retrieved, [1, 3])
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
  for row, label, other in ((found[0], 1, 3), (found[1], 3, 1)):
    own = retrieved.best.of(label).embeddings @ row
    assert own.mean() - (retrieved.sample @ row).mean() > 0.25
    assert own.mean() - (retrieved.best.of(other).embeddings @ row).mean() > 0.25
    plain = _unit(retrieved.best.of(label).embeddings.mean(0))
    gap = (retrieved.best.of(label).embeddings @ plain).mean() - (retrieved.sample @ plain).mean()
    assert own.mean() - (retrieved.sample @ row).mean() > gap


def _loss(w, bias, x, positive, negative):
  """Of one class, in plain NumPy: mean cross-entropy of both halves, and the decay."""
  p = 1 / (1 + np.exp(-((x - x.mean(0)) @ w + bias)))
  halves = -np.log(p[positive]).mean() / 2 - np.log(1 - p[negative]).mean() / 2
  return halves + rows._DECAY / 2 * (w**2).sum()


def test_the_probe_is_the_least_loss_of_each_class_alone():
  from scipy.optimize import minimize

  retrieved = _retrieved()
  found = rows.directions("probe", retrieved, [1, 3])
  np.testing.assert_array_equal(found, rows.directions("probe", retrieved, [1, 3]))
  own = [retrieved.best.of(label).embeddings for label in (1, 3)]
  x = np.concatenate([*own, retrieved.sample]).astype(np.float64)
  for column, label in enumerate((1, 3)):
    positive = np.zeros(len(x), bool)
    positive[40 * column : 40 * column + 40] = True
    negative = ~positive
    # Of sampled regions that are most like the class nothing is known.
    negative[80:] &= retrieved.sample_classes != label

    def flat(v, positive=positive, negative=negative):
      return _loss(v[:-1], v[-1], x, positive, negative)

    best = minimize(flat, np.zeros(7), method="BFGS").x[:-1]
    assert _unit(best) @ found[column] > 0.999


def test_classes_without_regions_are_left_out():
  retrieved = _retrieved()
  assert rows.with_regions(retrieved, [0, 1, 2, 3]).tolist() == [1, 3]


def test_an_unknown_direction_names_the_known():
  with pytest.raises(ValueError, match="'best'; expected one of mean, probe"):
    rows.directions("best", _retrieved(), [1])
