"""t-SNE of some hundreds of embeddings in NumPy: exact, deterministic, seconds."""

import numpy as np
from jaxtyping import Float

from rkd_jax.ops.host import unit

_STEPS, _EXAGGERATED, _RATE = 500, 120, 50.0


def tsne(
  embeddings: Float[np.ndarray, "n d"], perplexity: float = 20.0
) -> Float[np.ndarray, "n 2"]:
  """A map in which neighbours by cosine stay neighbours (van der Maaten & Hinton, 2008).

  It starts from the two principal components.  At most 2,000 rows are sensible: memory and time
  grow with their square.

  Raises:
    ValueError: fewer than three rows, or not all finite.
  """
  x = unit(np.asarray(embeddings, np.float64))
  if len(x) < 3 or not np.isfinite(x).all():
    raise ValueError(f"{len(x)} embeddings; expected at least three, all finite")
  distances = np.maximum(2 - 2 * x @ x.T, 0)
  p = _affinities(distances, min(perplexity, (len(x) - 1) / 3))
  p = np.maximum((p + p.T) / (2 * len(x)), 1e-12)
  centred = x - x.mean(axis=0)
  left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
  y = np.pad(left[:, :2] * sizes[:2], [(0, 0), (0, max(0, 2 - left.shape[1]))])
  y *= 1e-2 / max(y[:, 0].std(), 1e-12)
  velocity, gains = np.zeros_like(y), np.ones_like(y)
  for step in range(_STEPS):
    early = step < _EXAGGERATED
    kernel = 1 / (1 + ((y[:, None] - y[None]) ** 2).sum(axis=-1))
    np.fill_diagonal(kernel, 0)
    q = np.maximum(kernel / kernel.sum(), 1e-12)
    weights = (p * (12 if early else 1) - q) * kernel
    gradient = 4 * (weights.sum(axis=1)[:, None] * y - weights @ y)
    # Faster along a coordinate for as long as it keeps its direction.
    gains = np.maximum(np.where(gradient * velocity > 0, gains * 0.8, gains + 0.2), 0.01)
    velocity = (0.5 if early else 0.8) * velocity - _RATE * gains * gradient
    y = y + velocity
    y -= y.mean(axis=0)
  return y.astype(np.float32)


def _affinities(distances: Float[np.ndarray, "n n"], perplexity: float) -> Float[np.ndarray, "n n"]:
  """Of each row a normal density over the others, as wide as its perplexity asks (bisection)."""
  count = len(distances)
  # None with itself; the nearest at 0, so that not all densities vanish.
  distances = np.where(np.eye(count, dtype=bool), np.inf, distances)
  distances = distances - distances.min(axis=1, keepdims=True)
  low, high, beta = np.zeros(count), np.full(count, np.inf), np.ones(count)
  p = np.zeros_like(distances)
  for _ in range(60):
    p = np.exp(-beta[:, None] * distances)
    p /= p.sum(axis=1, keepdims=True)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    flat = entropy > np.log(perplexity)
    low, high = np.where(flat, beta, low), np.where(flat, high, beta)
    beta = np.where(np.isinf(high), beta * 2, (low + np.where(np.isinf(high), 0, high)) / 2)
  return p
