"""RoIAlign cell by cell: a loop over the cells under each bin, which are read one at a time."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rkd_jax.ops.roi_align.grid import cell_weights, cells_under


class Static(NamedTuple):
  bins: tuple[int, ...]  # computed along each axis
  cells: int  # of all maps
  batch_axis: str | None


def _cell_range(static, axis):
  """First cell [r, o] under each bin, and how many cells [r] to visit from there."""
  bins = jnp.array(static.bins, jnp.float32)
  first, last = cells_under(axis, bins, bins)
  count = jnp.where(axis.samples[:, None] > 0, last - first + 1, 0.0)
  return first, jnp.max(count, axis=1).astype(jnp.int32)


def _visit(static, y, x, place, body, start):
  """Folds `body(carry, cell [r, o, o], weight [r, o, o])` over the cells under the bins.

  Every RoI enumerates its own rows x columns, so the number of steps is the largest number of
  cells that a bin of any RoI covers; RoIs that need fewer meet zero weights at the end.
  """
  first_row, rows = _cell_range(static, y)
  first_column, columns = _cell_range(static, x)

  def weight(axis, cell):
    # A cell past the edge would repeat the edge once clipped.
    weight = cell_weights(static.bins, axis, cell[..., None])[..., 0]
    return jnp.where(cell < axis.size[:, None], weight, 0.0)

  def step(i, carry):
    row, column = jnp.divmod(i, jnp.maximum(columns, 1))
    row, column = first_row + row[:, None], first_column + column[:, None]
    live = (i < rows * columns)[:, None]
    row_weight = jnp.where(live, weight(y, row), 0.0)
    column_weight = weight(x, column)
    row = jnp.minimum(row, y.size[:, None] - 1).astype(jnp.int32)
    column = jnp.minimum(column, x.size[:, None] - 1).astype(jnp.int32)
    cell = (place.offset[:, None] + row * place.width[:, None])[:, :, None] + column[:, None, :]
    return body(carry, cell, row_weight[:, :, None] * column_weight[:, None, :])

  most = jnp.max(rows * columns, initial=0)
  if static.batch_axis is not None:
    most = jax.lax.pmax(most, static.batch_axis)
  return jax.lax.fori_loop(0, most, step, start)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gather_pool(static, flat, y, x, place):
  """Bins [r, o, o, c] of flattened maps [cells, c]."""

  def add(total, cell, weight):
    return total + weight[..., None] * flat[cell].astype(jnp.float32)

  shape = (y.start.shape[0], len(static.bins), len(static.bins), flat.shape[-1])
  return _visit(static, y, x, place, add, jnp.zeros(shape, jnp.float32)).astype(flat.dtype)


def _gather_forward(static, flat, y, x, place):
  return gather_pool(static, flat, y, x, place), (y, x, place)


def _zeros_after(x, shape):
  """Float32 zeros that are made when `x` is known: XLA on a CPU makes constants at the start."""
  zero = (x.ravel()[:1].sum() > jnp.inf).astype(jnp.float32)
  return jnp.broadcast_to(zero, shape)


def _gather_backward(static, geometry, gradient):
  y, x, place = geometry

  def scatter(total, cell, weight):
    return total.at[cell].add(weight[..., None] * gradient.astype(jnp.float32))

  start = _zeros_after(gradient, (static.cells, gradient.shape[-1]))
  total = _visit(static, y, x, place, scatter, start)
  return total.astype(gradient.dtype), None, None, None


gather_pool.defvjp(_gather_forward, _gather_backward)
