"""t-SNE: clusters stay clusters, the same every time, and what is refused."""

import numpy as np
import pytest

from rkd_jax.report.projection import _affinities, tsne


def clusters(seed=0):
  rng = np.random.default_rng(seed)
  centres = np.eye(8)[:4]
  groups = np.repeat(np.arange(4), 15)
  return centres[groups] + rng.normal(0, 0.05, (60, 8)), groups


def test_neighbours_stay_neighbours_and_every_time_alike():
  embeddings, groups = clusters()
  points = tsne(embeddings, perplexity=8)
  assert points.shape == (60, 2) and np.isfinite(points).all()
  distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
  np.fill_diagonal(distances, np.inf)
  assert (groups[distances.argmin(axis=1)] == groups).all()
  own = np.array([points[groups == g].mean(axis=0) for g in range(4)])
  spread = max(np.linalg.norm(points[groups == g] - own[g], axis=1).max() for g in range(4))
  assert min(np.linalg.norm(a - b) for i, a in enumerate(own) for b in own[:i]) > spread
  np.testing.assert_array_equal(points, tsne(embeddings, perplexity=8))


def test_lengths_of_embeddings_do_not_count():
  embeddings, _ = clusters()
  np.testing.assert_array_equal(tsne(embeddings), tsne(embeddings * 8.0))


def test_each_row_has_the_perplexity_asked_for():
  rng = np.random.default_rng(1)
  p = _affinities(rng.random((20, 20)) + np.ones((20, 20)), 5.0)
  np.testing.assert_allclose(p.sum(axis=1), 1)
  entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
  np.testing.assert_allclose(np.exp(entropy), 5, rtol=1e-3)
  assert (np.diag(p) == 0).all()


@pytest.mark.parametrize("embeddings", [np.ones((2, 4)), np.full((5, 4), np.nan)])
def test_too_few_or_damaged_embeddings_are_refused(embeddings):
  with pytest.raises(ValueError, match="expected at least three, all finite"):
    tsne(embeddings)


def test_equal_and_flat_embeddings_are_finite():
  for embeddings in (np.ones((6, 4)), np.eye(3)[:, :1] + 1, np.eye(3)):
    assert np.isfinite(tsne(embeddings)).all()
