"""Running a compiled function over any number of rows with one compilation."""

from collections.abc import Callable

import jax
import numpy as np


def map_batches(
  function: Callable[[np.ndarray], jax.Array], rows: np.ndarray, batch_size: int
) -> np.ndarray:
  """`function` over the rows in batches of exactly `batch_size`, the last one padded with zeros.

  `rows` must not be empty.  The results of the padding are dropped.
  """
  results = []
  for start in range(0, len(rows), batch_size):
    batch = rows[start : start + batch_size]
    padding = [(0, batch_size - len(batch))] + [(0, 0)] * (rows.ndim - 1)
    results.append(np.asarray(function(np.pad(batch, padding)))[: len(batch)])
  return np.concatenate(results)
