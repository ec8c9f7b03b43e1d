"""Digests of arrays, by which saved ones are known to be what they were."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import xxhash


def digests(arrays: Sequence[jax.Array | np.ndarray]) -> list[str]:
  """Of each array 'float32[3,4] 0123456789abcdef': its type, its shape, and XXH3 of its values.

  Arrays on devices are the same on all of them, or have all their parts in this process.
  """
  own = map(np.asarray, jax.device_get([_own_copy(array) for array in arrays]))
  return [f"{kind(array)} {_values(array)}" for array in own]


def _own_copy(array: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
  if isinstance(array, jax.Array) and array.is_fully_replicated:
    return array.addressable_data(0)
  return array


def kind(array: Any) -> str:
  """'float32[3,4]', of anything with a dtype and a shape."""
  return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _values(array: np.ndarray) -> str:
  return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
