"""Federated loss (Zhou et al. 2021): score only some of a large vocabulary at a step.

A long-tailed data set such as LVIS annotates few classes per image exhaustively, so most columns
of the classification loss would be negatives that are not known to be negative.  The classes of
the RoIs count, and a few more that are drawn by how common they are.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rkd_jax.structures import Arr


def federated_classes(
  key: PRNGKeyArray | None,
  classes: Int[Arr, "n"],
  valid: Bool[Arr, "n"],
  weights: Float[Arr, "c"],
  num_sample: int = 50,
) -> Bool[Array, "c"]:
  """Mask of the classes that count in the classification loss of a group of images.

  Those of the RoIs, and as many more as make `num_sample`, drawn without replacement in
  proportion to `weights` (Gumbel top-k).  As in the reference, background takes one of the
  `num_sample` places if a RoI has it, nothing is drawn if enough classes are there, and a class
  of weight 0 counts only where a RoI has it.

  Args:
    key: None draws the classes of the largest weights.
    classes: of the RoIs of all images of the group; C is background.
    valid: padding RoIs are False.
    weights: sqrt(number of training images) of each class.
    num_sample: places, background included; ValueError if not positive.
  """
  if num_sample < 1:
    raise ValueError(f"federated_classes: num_sample={num_sample}; expected at least 1.")
  num_classes = weights.shape[0]
  # The column after background takes the padding.
  slots = jnp.where(valid, classes, num_classes + 1)
  appeared = jnp.zeros(num_classes + 2, bool).at[slots].set(True)[:-1]
  missing = num_sample - jnp.sum(appeared)
  appeared = appeared[:-1]

  drawable = ~appeared & (weights > 0)
  score = jnp.log(jnp.where(drawable, weights, 1.0))
  if key is not None:
    score = score + jax.random.gumbel(key, score.shape)
  score = jnp.where(drawable, score, -jnp.inf)
  best, index = jax.lax.top_k(score, min(num_sample, num_classes))
  drawn = (jnp.arange(index.shape[0]) < missing) & (best > -jnp.inf)
  return appeared.at[index].max(drawn)
