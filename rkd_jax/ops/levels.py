"""Which level of a feature pyramid a box is pooled from (Lin et al. 2017, FPN, eq. 1)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rkd_jax.ops import boxes as box_ops
from rkd_jax.structures import Arr


def assign_levels(
  boxes: Float[Arr, "n 4"],
  min_level: int = 2,
  max_level: int = 5,
  canonical_size: float | int = 224,
  canonical_level: int = 4,
) -> Int[Array, "n"]:
  """Index into the levels `min_level..max_level` for each box; 0 is `min_level`.

  A box whose area is `canonical_size` squared belongs to `canonical_level`; each doubling of the
  side goes one level up.  Boxes of no area belong to `min_level`.
  """
  side = jnp.sqrt(jnp.maximum(box_ops.area(boxes), 0.0))
  level = jnp.floor(canonical_level + jnp.log2(side / canonical_size + 1e-8))
  return jnp.clip(level, min_level, max_level).astype(jnp.int32) - min_level
