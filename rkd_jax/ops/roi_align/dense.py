"""RoIAlign as products of matrices: every cell of a map is weighed, most with zero."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rkd_jax.ops.roi_align.grid import cell_weights, split, weigh


class Static(NamedTuple):
  bins: tuple[int, ...]  # computed along each axis
  height: int
  width: int
  roi_chunk: int


def _matmul(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _dense_weights(static, y, x):
  """Weights of all rows [r, o, h] and all columns [r, o, w] of the map."""
  rows = cell_weights(static.bins, y, jnp.arange(static.height, dtype=jnp.float32)[None, None])
  columns = cell_weights(static.bins, x, jnp.arange(static.width, dtype=jnp.float32)[None, None])
  return rows, columns


# The derivative is written out because the one XLA finds transposes the large operands: under
# vmap on a CPU forward and backward then cost more than twice as much.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum_pool(static, feature, y, x):
  """Bins [r, o, o, c] of a map [h, w, c]: rows first, then columns, some RoIs at a time."""
  o, h, w, c = len(static.bins), *feature.shape
  table = feature.astype(jnp.float32).reshape(h, w * c)

  def pool(axes):
    rows, columns = _dense_weights(static, *axes)
    r = rows.shape[0]
    strips = _matmul(rows.reshape(r * o, h), table).reshape(r, o, w, c)
    columns = jnp.broadcast_to(columns[:, None], (r, o, o, w))
    return _matmul(columns, strips).astype(feature.dtype)

  pooled = jax.lax.map(pool, split((y, x), static.roi_chunk))
  return pooled.reshape(-1, o, o, c)[: y.start.shape[0]]


def _einsum_forward(static, feature, y, x):
  return einsum_pool(static, feature, y, x), (y, x)


def _einsum_backward(static, axes, gradient):
  o, h, w, c = len(static.bins), static.height, static.width, gradient.shape[-1]

  def add(total, chunk):
    axes, gradient = chunk
    rows, columns = _dense_weights(static, *axes)
    r = rows.shape[0]
    columns = jnp.broadcast_to(columns.swapaxes(1, 2)[:, None], (r, o, w, o))
    strips = _matmul(columns, gradient.astype(jnp.float32)).reshape(r * o, w * c)
    return total + _matmul(rows.reshape(r * o, h).T, strips), None

  chunks = split((axes, gradient), static.roi_chunk)
  total, _ = jax.lax.scan(add, jnp.zeros((h, w * c), jnp.float32), chunks)
  return total.reshape(h, w, c).astype(gradient.dtype), None, None


einsum_pool.defvjp(_einsum_forward, _einsum_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def matrix_pool(static, feature, y, x):
  """Bins [r, o, o, c] of a map [h, w, c]: rows and columns at once, a row of bins at a time."""
  table = feature.reshape(-1, feature.shape[-1])
  rows, columns = _cell_table(static, y, x)

  def pool(row):
    return weigh("prk,kc->prc", row * columns, table).astype(feature.dtype)

  return jax.lax.map(pool, rows).transpose(2, 0, 1, 3)


def _matrix_forward(static, feature, y, x):
  return matrix_pool(static, feature, y, x), (y, x)


def _matrix_backward(static, axes, gradient):
  shape = (static.height, static.width, gradient.shape[-1])
  rows, columns = _cell_table(static, *axes)

  def add(total, row_and_gradient):
    row, gradient = row_and_gradient
    return total + weigh("prk,prc->kc", row * columns, gradient), None

  start = jnp.zeros((shape[0] * shape[1], shape[2]), jnp.float32)
  total, _ = jax.lax.scan(add, start, (rows, gradient.transpose(1, 2, 0, 3)))
  return total.reshape(shape).astype(gradient.dtype), None, None


matrix_pool.defvjp(_matrix_forward, _matrix_backward)


def _cell_table(static, y, x):
  """Weights of all cells k of the map: of their rows [o, 1, r, k], of their columns [o, r, k]."""
  rows, columns = _dense_weights(static, y, x)
  row, column = jnp.divmod(jnp.arange(static.height * static.width), static.width)
  rows = _matmul(rows, jax.nn.one_hot(row, static.height, axis=0))
  columns = _matmul(columns, jax.nn.one_hot(column, static.width, axis=0))
  return rows.swapaxes(0, 1)[:, None], columns.swapaxes(0, 1)
