"""Region-based knowledge distillation: point-wise L1 between region embeddings."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rkd_jax.ops.embeddings import l2_normalize


def point_wise_l1(
  student: Float[Array, "n d"],
  teacher: Float[Array, "n d"],
  valid: Bool[Array, "n"],
  reduction: str = "mean",
) -> Float[Array, ""]:
  """L_1 of the paper (eq. 1) over the regions of a group of images.

  Both sides are L2-normalised.  `mean` averages over regions and dimensions (published code); `sum`
  sums over dimensions and averages over regions (paper).  No valid region gives 0.
  """
  difference = jnp.abs(l2_normalize(student) - l2_normalize(teacher))
  total = jnp.sum(jnp.where(valid[:, None], difference, 0.0))
  count = jnp.maximum(jnp.sum(valid), 1)
  if reduction == "mean":
    return total / (count * student.shape[1])
  if reduction == "sum":
    return total / count
  raise ValueError(f"loss.rkd.reduction is {reduction!r}; expected 'mean' or 'sum'.")
