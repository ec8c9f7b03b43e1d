"""Similarity arithmetic, and what is refused."""

import numpy as np
import pytest

from rkd_jax.pictures import figures


def test_class_similarities_by_hand():
  # Class 7: (1,0) and (0,1), whatever their lengths, mean along the diagonal; class 2: (1,0).
  embeddings = np.array([[10, 0], [0, 0.1], [3, 0], [5, 5]])
  matrix = figures.class_similarities(embeddings, [7, 7, 2, 9], [7, 2, 4])
  np.testing.assert_allclose(matrix[:2, :2], [[1, np.sqrt(0.5)], [np.sqrt(0.5), 1]], rtol=1e-6)
  assert np.isnan(matrix[2]).all() and np.isnan(matrix[:, 2]).all()
  with pytest.raises(ValueError, match="not all finite"):
    figures.class_similarities(np.full((1, 2), np.nan), [7], [7])


def symmetric(a, b, c):
  return np.array([[1, a, b], [a, 1, c], [b, c, 1]])


def test_agreement_is_the_off_diagonal_correlation():
  first = symmetric(0.1, 0.2, 0.4)
  assert figures.agreement(first, symmetric(0.3, 0.5, 0.9)) == pytest.approx(1.0)
  assert figures.agreement(first, symmetric(-0.1, -0.2, -0.4)) == pytest.approx(-1.0)
  assert figures.agreement(first, symmetric(0.5, 0.5, 0.5)) is None
  assert figures.agreement(first, symmetric(0.3, np.nan, 0.9)) is None


def test_similarity_figure_is_deterministic():
  matrices = {"CLIP": symmetric(0.1, 0.2, 0.4), "RKD": symmetric(0.3, np.nan, 0.9)}
  figure = figures.similarity_figure(matrices, ["a", "b", "c"])
  assert figure.dtype == np.uint8 and figure.shape[2] == 3
  np.testing.assert_array_equal(figure, figures.similarity_figure(matrices, ["a", "b", "c"]))
  with pytest.raises(ValueError, match=r"RKD: matrix .2, 2. for 3 class names"):
    figures.similarity_figure({**matrices, "RKD": np.eye(2)}, ["a", "b", "c"])
