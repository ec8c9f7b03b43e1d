"""Repeat-factor sampling: images of rare classes come more often (Gupta et al., LVIS, 2019).

The factors are those of detectron2's `RepeatFactorTrainingSampler`.  Two forms use them: it
repeats an image a whole number of times per epoch and rounds at random ("stochastic"); the
sampler over several data sets draws images with replacement, as likely as their factors
("fractional").
"""

import numpy as np
from jaxtyping import Float, Int

from rkd_jax.records.index import Index

FORMS = ("stochastic", "fractional")


def repeat_factors(index: Index, threshold: float) -> Float[np.ndarray, "n"]:
  """r(I) = max over the classes c of image I of max(1, sqrt(threshold / f(c))).

  f(c) is the share of images with class c.  An image without classes has factor 1.
  """
  counts = index.image_counts(int(index.classes.max(initial=-1)) + 1)
  share = np.where(counts > 0, counts, 1) / len(index)
  of_class = np.maximum(1.0, np.sqrt(threshold / share))
  factors = np.ones(len(index))
  image = np.repeat(np.arange(len(index)), np.diff(index.starts))
  np.maximum.at(factors, image, of_class[index.classes])
  return factors


def rounded_repeats(
  factors: Float[np.ndarray, "n"], rng: np.random.Generator
) -> Int[np.ndarray, "m"]:
  """Record numbers of one epoch: each int(factor) times, and once more with its fraction."""
  whole = np.floor(factors).astype(np.int64)
  whole += rng.random(len(factors)) < factors - whole
  return np.repeat(np.arange(len(factors)), whole)
