"""Unit vectors: what CLIP's embeddings are compared as."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def l2_normalize(x: Float[Array, "*n d"], epsilon: float = 1e-12) -> Float[Array, "*n d"]:
  """x / |x| in float32; rows not longer than epsilon become zero, with zero gradient."""
  x = x.astype(jnp.float32)
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  tiny = square <= epsilon**2
  norm = jnp.sqrt(jnp.where(tiny, 1.0, square))
  return jnp.where(tiny, 0.0, x / norm)
