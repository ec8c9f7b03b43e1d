"""RoIAlign by tiles: a loop over squares of cells under each RoI, read and weighed as a whole."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rkd_jax.ops.roi_align.grid import Axis, Place, cell_weights, cells_under, split, weigh

SIDE = 8  # cells; as many rows as a TPU's registers have
_ROIS = 16  # of an image in one step of the loop
_TOGETHER = 8  # tiles of each RoI in one step


class Static(NamedTuple):
  bins: tuple[int, ...]  # computed along each axis
  tiles: int  # of all maps
  batch_axis: str | None


class _Rois(NamedTuple):
  y: Axis
  x: Axis
  place: Place
  row: Array  # of the first tile; int32 [r], like those below
  column: Array
  columns: Array  # of tiles
  count: Array  # tiles


def cut(feature: Array) -> Array:
  """A map [h, w, c] as tiles [rows, columns, SIDE * SIDE, c]; beyond its edges are zeros."""
  height, width = (-(-side // SIDE) for side in feature.shape[:2])
  beyond = height * SIDE - feature.shape[0], width * SIDE - feature.shape[1]
  feature = jnp.pad(feature, ((0, beyond[0]), (0, beyond[1]), (0, 0)))
  tiles = feature.reshape(height, SIDE, width, SIDE, -1).swapaxes(1, 2)
  return tiles.reshape(height, width, SIDE * SIDE, -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def tile_pool(static, tiles, y, x, place):
  """Bins [r, o, o, c] of tiles [t, SIDE * SIDE, c].

  RoIs are taken some at a time, those over most tiles first: a chunk makes as many steps as
  its first RoI needs, and long boxes delay their like alone.
  """
  order, chunks, steps = _plan(static, y, x, place)
  shape = (len(static.bins), len(static.bins), tiles.shape[-1])

  def pool(chunk):
    rois, steps = chunk

    def add(i, total):
      tile, weights = _step(static, rois, i)
      values = tiles.at[tile].get(mode="promise_in_bounds")
      return total + weigh("ryxk,rkc->ryxc", weights, values.reshape(len(tile), -1, shape[-1]))

    start = jnp.zeros((len(rois.count), *shape), jnp.float32)
    return jax.lax.fori_loop(0, steps, add, start).astype(tiles.dtype)

  pooled = jax.lax.map(pool, (chunks, steps)).reshape(-1, *shape)
  return pooled[jnp.argsort(order)]


def _forward(static, tiles, y, x, place):
  return tile_pool(static, tiles, y, x, place), (y, x, place)


def _backward(static, geometry, gradient):
  order, chunks, steps = _plan(static, *geometry)
  channels = gradient.shape[-1]
  gradient = gradient[order]

  def add_chunk(total, chunk):
    rois, steps, gradient = chunk

    def add(i, total):
      tile, weights = _step(static, rois, i)
      parts = weigh("ryxk,ryxc->rkc", weights, gradient).reshape(*tile.shape, -1, channels)
      return total.at[tile].add(parts, mode="promise_in_bounds")

    return jax.lax.fori_loop(0, steps, add, total), None

  start = jnp.zeros((static.tiles, SIDE * SIDE, channels), jnp.float32)
  chunks = (chunks, steps, split(gradient, _ROIS))
  total, _ = jax.lax.scan(add_chunk, start, chunks)
  return total.astype(gradient.dtype), None, None, None


tile_pool.defvjp(_forward, _backward)


def _plan(static, y, x, place):
  """The order of the RoIs, chunks of them in that order, and how many steps each chunk makes."""
  (row, rows), (column, columns) = (_tile_range(static, axis) for axis in (y, x))
  rois = _Rois(y, x, place, row, column, columns, rows * columns)
  order = jnp.argsort(-rois.count)
  chunks = split(jax.tree.map(lambda a: a[order], rois), _ROIS)
  steps = -(-jnp.max(chunks.count, axis=1, initial=0) // _TOGETHER)
  if static.batch_axis is not None:
    steps = jax.lax.pmax(steps, static.batch_axis)
  return order, chunks, steps


def _tile_range(static, axis):
  """The first tile [r] under each RoI, and how many there are [r] from there."""
  ends = (jnp.array([bin], jnp.float32) for bin in (static.bins[0], static.bins[-1]))
  first, last = (cell[:, 0].astype(jnp.int32) // SIDE for cell in cells_under(axis, *ends))
  return first, jnp.where(axis.samples > 0, last - first + 1, 0)


def _step(static, rois, i):
  """The tiles [r, t] of step `i`, and weights [r, o, o, k] of their cells; zero past the last."""
  number = i * _TOGETHER + jnp.arange(_TOGETHER)
  live = number < rois.count[:, None]
  row, column = jnp.divmod(number, jnp.maximum(rois.columns, 1)[:, None])
  row, column = rois.row[:, None] + row, rois.column[:, None] + column

  def along(axis, tile, within):
    # Weights that belong together are as often computed as there are cells: spreading them over
    # the cells would cost more.
    cells = (tile[..., None, None] * SIDE + within).reshape(len(tile), 1, -1)
    return cell_weights(static.bins, axis, cells.astype(jnp.float32))

  index = jnp.indices((SIDE, SIDE))
  live_cells = jnp.repeat(live, SIDE * SIDE, axis=1)[:, None]
  rows = jnp.where(live_cells, along(rois.y, row, index[0]), 0.0)
  weights = rows[:, :, None] * along(rois.x, column, index[1])[:, None]
  # Where there is nothing to read, some tile.
  tile = jnp.where(live, rois.place.offset[:, None] + row * rois.place.width[:, None] + column, 0)
  return tile, weights
