"""Probabilities from scores: the chance that a detection is a hit, as a split has shown it.

The score s of a class c becomes

  p = sigmoid(a logit(s) + b_c)

with one slope a for all classes (1 / a is a temperature) and a bias for each.  Of the counted
detections i with scores s_i, of which those with y_i = 1 are hits, `fit` takes the least of

  - sum_i log(p_i if y_i else 1 - p_i) + sum_c (b_c - b)^2 / 2 + b^2 / 2 + (a - 1 - log a)

which is what is most probable after these detections, if before them

- the biases of the classes lie around the common b, which a class without detections takes, with a
  standard deviation of 1: the odds of nearly all classes are within a factor e^2 = 7 of the common
  ones.  k detections of chance p weigh k p (1 - p) against this, so that a class with 4 of chance
  0.5, or 11 of chance 0.1, is half way from b to what they say alone;
- b lies around 0 and a around 1 (a gamma distribution), where p = s.  That is nothing against some
  dozens of detections, but without hits, without others or without any all stays finite, and a > 0.

So the order within a class stays, and with it the AP of each class: by p other detections may only
be left out where all classes compete, at a score threshold or at the most detections of an image.
The sum is strictly convex, and its least is found by Newton's method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

BINS = 15
_STEPS, _HALVINGS = 100, 60
# float32 has no score between 1 and 1 - 2 * _LEAST.
_LEAST = 2.0**-25


def logits(scores: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
  """log(s / (1 - s)), finite: scores are held 2^-25 away from 0 and 1."""
  scores = np.clip(np.asarray(scores, np.float64), _LEAST, 1 - _LEAST)
  return np.log(scores) - np.log1p(-scores)


@dataclass(frozen=True)
class Scaling:
  """a, b and the b_c of some classes."""

  slope: float
  bias: float
  biases: Float[np.ndarray, "c"]

  def __call__(
    self, scores: Float[np.ndarray, "n"], classes: Int[np.ndarray, "n"]
  ) -> Float[np.ndarray, "n"]:
    """p of each detection; classes are places in `biases`."""
    return expit(self.slope * logits(scores) + self.biases[classes])


def fit(
  scores: Float[np.ndarray, "n"],
  classes: Int[np.ndarray, "n"],
  hits: Bool[np.ndarray, "n"],
  columns: int,
) -> Scaling:
  """The scaling of `columns` classes from counted detections, in any order, to the last bit."""
  order = np.lexsort((hits, scores, classes))
  x, y = logits(np.asarray(scores)[order]), np.asarray(hits)[order].astype(np.float64)
  seen, own = np.unique(np.asarray(classes)[order], return_inverse=True)
  a, b, biases = 1.0, 0.0, np.zeros(len(seen))
  for _ in range(_STEPS):
    step, decrease = _newton(x, y, own, a, b, biases)
    length = 1.0
    # Near the least value rounding hides what a step gains, and whole ones are right.
    if decrease > 1e-6:
      now = _value(x, y, own, a, b, biases)
      for _ in range(_HALVINGS):
        new = (old + length * part for old, part in zip((a, b, biases), step))
        if _value(x, y, own, *new) <= now - 1e-4 * length * decrease:
          break
        length /= 2
    a, b, biases = (old + length * part for old, part in zip((a, b, biases), step))
    if decrease < 1e-12:
      break
  every = np.full(columns, float(b))
  every[seen] = biases
  return Scaling(float(a), float(b), every)


def _value(
  x: np.ndarray, y: np.ndarray, own: np.ndarray, a: float, b: float, biases: np.ndarray
) -> float:
  """What `fit` takes the least of; infinite from a <= 0 on."""
  if a <= 0:
    return np.inf
  z = a * x + biases[own]
  prior = ((biases - b) ** 2).sum() / 2 + b**2 / 2 + a - 1 - np.log(a)
  return float((np.logaddexp(0, z) - y * z).sum() + prior)


def _newton(
  x: np.ndarray, y: np.ndarray, own: np.ndarray, a: float, b: float, biases: np.ndarray
) -> tuple[tuple[float, float, np.ndarray], float]:
  """Newton's step for a, b and the biases, and twice what it gains if the value is quadratic.

  Biases of unlike classes share no second derivative: those of a and b alone are left to be solved
  for when each class's step is put in for theirs.
  """
  p = expit(a * x + biases[own])
  weight = p * (1 - p)

  def by_class(values: np.ndarray) -> np.ndarray:
    return np.bincount(own, values, len(biases))

  slope_a = ((p - y) * x).sum() + 1 - 1 / a
  slope_b = (b - biases).sum() + b
  slopes = by_class(p - y) + biases - b
  mixed, bend = by_class(weight * x), by_class(weight) + 1
  bend_a = (weight * x * x).sum() + 1 / a**2 - (mixed**2 / bend).sum()
  bend_b = len(biases) + 1 - (1 / bend).sum()
  bend_ab = (mixed / bend).sum()
  right = np.array([slope_a - (mixed * slopes / bend).sum(), slope_b + (slopes / bend).sum()])
  d_a, d_b = -np.linalg.solve(np.array([[bend_a, bend_ab], [bend_ab, bend_b]]), right)
  d_biases = -(slopes + mixed * d_a - d_b) / bend
  decrease = -(slope_a * d_a + slope_b * d_b + (slopes * d_biases).sum())
  return (float(d_a), float(d_b), d_biases), float(decrease)


def reliability(
  chances: Float[np.ndarray, "n"], hits: Bool[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"], Int[np.ndarray, "k"]]:
  """Of up to `BINS` bins of equally many detections by rising chance: the mean chance, the part
  that are hits, and how many they are.  Equal chances share a bin.
  """
  order = np.lexsort((hits, chances))
  chances, hits = np.asarray(chances, np.float64)[order], np.asarray(hits)[order]
  places = np.searchsorted(chances, chances) * BINS // max(len(chances), 1)
  _, own, counts = np.unique(places, return_inverse=True, return_counts=True)
  return np.bincount(own, chances) / counts, np.bincount(own, hits) / counts, counts


def quality(
  chances: Float[np.ndarray, "n"], hits: Bool[np.ndarray, "n"]
) -> Mapping[str, float | None]:
  """'ece', the expected calibration error: how far the mean chance and the part of hits are apart
  in the bins of `reliability`, the mean over detections; and 'brier', the mean of (p - y)^2.

  None without a detection.
  """
  if not len(hits):
    return {"ece": None, "brier": None}
  chance, part, counts = reliability(chances, hits)
  ece = (np.abs(chance - part) * counts).sum() / counts.sum()
  squares = np.sort((np.asarray(chances, np.float64) - hits) ** 2)
  return {"ece": float(ece), "brier": float(squares.mean())}


def compared(
  scores: Float[np.ndarray, "n"], chances: Float[np.ndarray, "n"], hits: Bool[np.ndarray, "n"]
) -> dict[str, Any]:
  """'detections', and the quality 'before', of the scores, and 'after', of the chances."""
  before, after = quality(scores, hits), quality(chances, hits)
  return {"detections": len(hits), "before": before, "after": after}
