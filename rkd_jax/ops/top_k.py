"""The largest few of many numbers."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rkd_jax.machine import target

# Numbers to each that is wanted, below which two small sorts are no less than one large.
_MANY = 9


def top_k(values: Float[Array, "n"], k: int) -> tuple[Float[Array, "k"], Int[Array, "k"]]:
  """`jax.lax.top_k`: the largest `k` and their indices, of equal ones the first.

  A TPU sorts all numbers for it where `k` is not small.  For TPUs only groups of numbers whose
  maxima are the largest are sorted: what another group holds has `k` maxima before it.
  """
  n = len(values)
  if target.current().platform != "tpu" or not 0 < _MANY * k <= n:
    top, index = jax.lax.top_k(values, k)
    return top, index
  return _of_groups(values, k, size=math.isqrt(n // k))


def _of_groups(values, k, size):
  groups = jnp.pad(values, (0, -len(values) % size), constant_values=-jnp.inf).reshape(-1, size)
  # In the order of the numbers, so that the first of equal ones stays so.
  chosen = jnp.sort(jax.lax.top_k(jnp.max(groups, axis=1), k)[1])
  top, place = jax.lax.top_k(groups[chosen].ravel(), k)
  return top, chosen[place // size] * size + place % size
