"""The sampling grid of RoIs along one axis, and what each cell of a map weighs in each bin."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_T = TypeVar("_T")

# Adaptive samples are more than half a cell apart if there are several (two thirds if there are
# more than two), so no cell is within one cell's distance of more than three; one to spare.
_MAX_SAMPLES_PER_CELL = 4


class Axis(NamedTuple):
  """The sampling grid of each RoI along one axis, in cells; all float32 [r]."""

  start: Array
  bin_size: Array
  samples: Array  # per bin; 0 for a box without extent
  size: Array  # of the map, or of the part that belongs to the image


class Place(NamedTuple):
  """Where each RoI's map lies among maps one after another; int32 [r], in cells or in tiles."""

  offset: Array
  width: Array


def axis(low: Float[Array, "r"], high: Float[Array, "r"], size, output_size: int) -> Axis:
  """The grid from the sides of boxes, in cells, half a cell taken off.

  A box that is not finite, as where training diverges, is without samples: its cells are nowhere.
  """
  bin_size = (high - low) / output_size
  samples = jnp.where((bin_size > 0) & (bin_size < jnp.inf), jnp.ceil(bin_size), 0.0)
  return Axis(low, bin_size, samples, size)


def position(axis: Axis, bins, sample):
  """Where sample number `sample` of each bin lies; all arguments broadcast."""
  within = (sample + 0.5) * axis.bin_size / jnp.maximum(axis.samples, 1.0)
  return axis.start + bins * axis.bin_size + within


def cells_under(
  axis: Axis, first_bin: Float[Array, "o"], last_bin: Float[Array, "o"]
) -> tuple[Float[Array, "r o"], Float[Array, "r o"]]:
  """The first and the last cell that samples can read, for each pair of a first and a last bin."""
  axis = jax.tree.map(lambda a: a[:, None], axis)
  first = jnp.floor(position(axis, first_bin, 0.0))
  last = jnp.floor(position(axis, last_bin, jnp.maximum(axis.samples - 1, 0.0))) + 1
  return jnp.clip(first, 0, axis.size - 1), jnp.clip(last, 0, axis.size - 1)


def cell_weights(
  bins: Sequence[int], axis: Axis, cells: Float[Array, "#r #o k"]
) -> Float[Array, "r o k"]:
  """Weight of cells in the average over each bin."""
  axis = jax.tree.map(lambda a: a[:, None, None, None], axis)
  bin_number = jnp.array(bins, jnp.float32)[None, :, None, None]
  cells = cells[..., None]
  # The first sample that can reach the cell, i.e. lies at or above cell - 1.
  step = axis.bin_size / jnp.maximum(axis.samples, 1.0)
  distance = cells - 1 - position(axis, bin_number, 0.0)
  first = jnp.ceil(distance / jnp.where(step > 0, step, 1.0) - 1e-3)
  sample = jnp.maximum(first, 0.0) + jnp.arange(_MAX_SAMPLES_PER_CELL, dtype=jnp.float32)
  at = position(axis, bin_number, sample)
  counts = (sample < axis.samples) & (at >= -1) & (at <= axis.size)
  hat = jnp.maximum(1 - jnp.abs(jnp.clip(at, 0, axis.size - 1) - cells), 0.0)
  return jnp.sum(jnp.where(counts, hat, 0.0) / jnp.maximum(axis.samples, 1.0), axis=-1)


def weigh(contraction: str, weights: Float[Array, "..."], values: Array) -> Float[Array, "..."]:
  """An einsum of float32 weights with values, in float32.

  Values of bfloat16 meet the weights in two parts of bfloat16: those hold 16 bits of a weight,
  twice as many as the values have, at a third of the price of products of floats.
  """
  if values.dtype != jnp.bfloat16:
    return jnp.einsum(contraction, weights, values.astype(jnp.float32), precision="highest")
  mix = partial(jnp.einsum, contraction, preferred_element_type=jnp.float32)
  high = jax.lax.reduce_precision(weights, exponent_bits=8, mantissa_bits=7)
  low = (weights - high).astype(jnp.bfloat16)
  return mix(high.astype(jnp.bfloat16), values) + mix(low, values)


def split(tree: _T, chunk: int) -> _T:
  """Cuts the leading axis of each leaf into chunks, the last one padded with zeros."""
  n = jax.tree.leaves(tree)[0].shape[0]
  chunk = max(1, min(chunk, n))
  chunks = -(-n // chunk)

  def cut(a):
    a = jnp.pad(a, [(0, chunks * chunk - n)] + [(0, 0)] * (a.ndim - 1))
    return a.reshape(chunks, chunk, *a.shape[1:])

  return jax.tree.map(cut, tree)
