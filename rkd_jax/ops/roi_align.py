"""RoIAlign (He et al. 2017) with the border rules of detectron2's `ROIAlignV2`.

A box is scaled to the feature map and shifted by -0.5 (pixel centres), cut into `output_size`
bins per axis, and each bin averages bilinear samples on a regular grid.  The grid is adaptive:
ceil(box side / output_size) samples per bin, box and axis (its `sampling_ratio` 0).  Samples beyond
[-1, size] count as zero, those between the edge and that limit read the edge.

Everything about an axis is separable, so a bin is a weighted sum of cells with weight
row_weight * column_weight.  The weights of a cell come from the few samples that can reach it,
which makes the result exact for boxes of any size with static shapes.  Three ways to sum:

* einsum: matrix products of dense row and column weights with the map; fast on small maps;
* gather: a loop over the cells under each bin, as many as the largest box needs; its cost does not
  grow with the map;
* matrix: one product of the weights of all cells of the map, zeros included, for each row of bins;
  what accelerators do best while the map is small, and as long for any box.

Weights and sums are float32 whatever the features are.  No gradient flows to the boxes, as
in the reference; the gradient to the features is the transpose of the same sum.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rkd_jax.machine import target
from rkd_jax.structures import Arr

_METHODS = ("auto", "einsum", "gather", "matrix")

# Adaptive samples are more than half a cell apart if there are several (two thirds if there are
# more than two), so no cell is within one cell's distance of more than three; one to spare.
_MAX_SAMPLES_PER_CELL = 4

# Cells of all maps up to which accelerators weigh all of them for every bin.
_MATRIX_CELLS = 8192


class _Axis(NamedTuple):
  """The sampling grid of each RoI along one axis, in cells; all float32 [r]."""

  start: Array
  bin_size: Array
  samples: Array  # per bin; 0 for a box without extent
  size: Array  # of the map, or of the part that belongs to the image


class _Place(NamedTuple):
  """Where each RoI's map lies among the flattened ones; int32 [r]."""

  offset: Array
  width: Array


class _Static(NamedTuple):
  bins: tuple[int, ...]  # computed along each axis
  height: int  # of the map; for `gather` of the flattened maps, whose width is then 1
  width: int
  roi_chunk: int
  batch_axis: str | None


def multilevel_roi_align(
  features: Sequence[Float[Arr, "_ _ c"]],
  boxes: Float[Arr, "r 4"],
  levels: Int[Arr, "r"] | None,
  output_size: int,
  spatial_scales: Sequence[float | int],
  *,
  cells: Int[Arr, "l 2"] | None = None,
  bin_step: int = 1,
  method: str = "auto",
  roi_chunk: int = 64,
  batch_axis: str | None = None,
) -> Float[Array, "r _o _o c"]:
  """Pools each box from the level of a feature pyramid that `boxes.assign_levels` gives it.

  Args:
    features: the map of each level.
    boxes: XYXY in image pixels; a box without extent gives zeros.
    levels: index of each box into the maps; None is for a single level.
    output_size: bins per axis.
    spatial_scales: cells per pixel of each map, 1 / stride.
    cells: the part (height, width) of each map that belongs to the image, where its border is;
      None is the whole map.
    bin_step: only every so-many-th bin is computed along both axes, for heads that begin with a
      strided 1x1 convolution.
    method: 'einsum', 'gather', 'matrix', or 'auto' to choose by the size of the maps and by what is
      compiled for.
    roi_chunk: RoIs pooled at a time by einsum, which bounds its memory to about
      roi_chunk * output_size * w * c floats.
    batch_axis: names the axis of a surrounding `jax.vmap` over images: their loops of `gather`
      then end together, else each step would copy all sums to keep those of images that ended
      before.

  Returns:
    Pooled features in the dtype of `features`.

  Raises:
    ValueError: for an unknown method, a size that is not positive, or maps without a scale.
  """
  if method not in _METHODS:
    raise ValueError(f"roi_align: unknown method {method!r}; expected one of {_METHODS}.")
  if min(output_size, bin_step, roi_chunk) < 1:
    raise ValueError(
      f"roi_align: output_size={output_size}, bin_step={bin_step}, roi_chunk={roi_chunk}; "
      "expected positive sizes."
    )
  if len(features) != len(spatial_scales):
    raise ValueError(
      f"roi_align: {len(features)} feature maps but {len(spatial_scales)} spatial scales; "
      "give one scale per map."
    )
  bins = tuple(range(0, output_size, bin_step))
  if method == "auto":
    method = _choose_method(features, len(bins))
  boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
  if levels is None:
    levels = jnp.zeros(boxes.shape[0], jnp.int32)
  if cells is None:
    cells = jnp.array([f.shape[:2] for f in features])
  sizes = cells.astype(jnp.float32)[levels]
  scaled = boxes * jnp.array(spatial_scales, jnp.float32)[levels][:, None] - 0.5
  y = _axis(scaled[:, 1], scaled[:, 3], sizes[:, 0], output_size)
  x = _axis(scaled[:, 0], scaled[:, 2], sizes[:, 1], output_size)

  if method == "gather":
    lengths = [f.shape[0] * f.shape[1] for f in features]
    flat = jnp.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    place = _Place(
      offset=jnp.array([sum(lengths[:i]) for i in range(len(lengths))], jnp.int32)[levels],
      width=jnp.array([f.shape[1] for f in features], jnp.int32)[levels],
    )
    static = _Static(bins, sum(lengths), 1, roi_chunk, batch_axis)
    return _gather_pool(static, flat, y, x, place)

  pooled = 0
  for level, feature in enumerate(features):
    # A box without samples pools to zero, so the sum over levels picks the right one.
    here = levels == level
    y_here = y._replace(samples=jnp.where(here, y.samples, 0))
    height, width = feature.shape[:2]
    static = _Static(bins, height, width, roi_chunk, batch_axis)
    pool = _matrix_pool if method == "matrix" else _einsum_pool
    pooled = pooled + pool(static, feature, y_here, x)  # pyright: ignore[reportOperatorIssue]
  return pooled  # pyright: ignore[reportReturnType]


def _choose_method(features, bins):
  """Einsum while the dense weights waste little; matrix while they suit a unit for matrices."""
  cells = sum(f.shape[0] * f.shape[1] for f in features)
  if target.current().platform != "cpu" and cells <= _MATRIX_CELLS:
    return "matrix"
  return "einsum" if cells <= 16 * bins**2 else "gather"


def _axis(low, high, size, output_size):
  bin_size = (high - low) / output_size
  samples = jnp.where(bin_size > 0, jnp.ceil(bin_size), 0.0)
  return _Axis(low, bin_size, samples, size)


def _position(axis, bins, sample):
  """Where sample number `sample` of each bin lies; all arguments broadcast."""
  within = (sample + 0.5) * axis.bin_size / jnp.maximum(axis.samples, 1.0)
  return axis.start + bins * axis.bin_size + within


def _cell_weights(static, axis, cells):
  """Weight of `cells` [r or 1, o or 1, k] in the average over each bin, [r, o, k]."""
  axis = jax.tree.map(lambda a: a[:, None, None, None], axis)
  bins = jnp.array(static.bins, jnp.float32)[None, :, None, None]
  cells = cells[..., None]
  # The first sample that can reach the cell, i.e. lies at or above cell - 1.
  step = axis.bin_size / jnp.maximum(axis.samples, 1.0)
  distance = cells - 1 - _position(axis, bins, 0.0)
  first = jnp.ceil(distance / jnp.where(step > 0, step, 1.0) - 1e-3)
  sample = jnp.maximum(first, 0.0) + jnp.arange(_MAX_SAMPLES_PER_CELL, dtype=jnp.float32)
  position = _position(axis, bins, sample)
  counts = (sample < axis.samples) & (position >= -1) & (position <= axis.size)
  hat = jnp.maximum(1 - jnp.abs(jnp.clip(position, 0, axis.size - 1) - cells), 0.0)
  return jnp.sum(jnp.where(counts, hat, 0.0) / jnp.maximum(axis.samples, 1.0), axis=-1)


def _matmul(a, b):
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _dense_weights(static, y, x):
  """Weights of all rows [r, o, h] and all columns [r, o, w] of the map."""
  rows = _cell_weights(static, y, jnp.arange(static.height, dtype=jnp.float32)[None, None])
  columns = _cell_weights(static, x, jnp.arange(static.width, dtype=jnp.float32)[None, None])
  return rows, columns


def _split(tree, chunk):
  """Cuts the leading axis of each leaf into chunks, the last one padded with zeros."""
  n = jax.tree.leaves(tree)[0].shape[0]
  chunk = max(1, min(chunk, n))
  chunks = -(-n // chunk)

  def split(a):
    a = jnp.pad(a, [(0, chunks * chunk - n)] + [(0, 0)] * (a.ndim - 1))
    return a.reshape(chunks, chunk, *a.shape[1:])

  return jax.tree.map(split, tree)


# The derivative is written out because the one XLA finds transposes the large operands: under
# vmap on a CPU forward and backward then cost more than twice as much.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _einsum_pool(static, feature, y, x):
  o, h, w, c = len(static.bins), *feature.shape
  table = feature.astype(jnp.float32).reshape(h, w * c)

  def pool(axes):
    rows, columns = _dense_weights(static, *axes)
    r = rows.shape[0]
    strips = _matmul(rows.reshape(r * o, h), table).reshape(r, o, w, c)
    columns = jnp.broadcast_to(columns[:, None], (r, o, o, w))
    return _matmul(columns, strips).astype(feature.dtype)

  pooled = jax.lax.map(pool, _split((y, x), static.roi_chunk))
  return pooled.reshape(-1, o, o, c)[: y.start.shape[0]]


def _einsum_forward(static, feature, y, x):
  return _einsum_pool(static, feature, y, x), (y, x)


def _einsum_backward(static, axes, gradient):
  o, h, w, c = len(static.bins), static.height, static.width, gradient.shape[-1]

  def add(total, chunk):
    axes, gradient = chunk
    rows, columns = _dense_weights(static, *axes)
    r = rows.shape[0]
    columns = jnp.broadcast_to(columns.swapaxes(1, 2)[:, None], (r, o, w, o))
    strips = _matmul(columns, gradient.astype(jnp.float32)).reshape(r * o, w * c)
    return total + _matmul(rows.reshape(r * o, h).T, strips), None

  chunks = _split((axes, gradient), static.roi_chunk)
  total, _ = jax.lax.scan(add, jnp.zeros((h, w * c), jnp.float32), chunks)
  return total.reshape(h, w, c).astype(gradient.dtype), None, None


_einsum_pool.defvjp(_einsum_forward, _einsum_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matrix_pool(static, feature, y, x):
  table = feature.reshape(-1, feature.shape[-1])
  rows, columns = _cell_table(static, y, x)

  def pool(row):
    return _weigh("prk,kc->prc", row * columns, table).astype(feature.dtype)

  return jax.lax.map(pool, rows).transpose(2, 0, 1, 3)


def _matrix_forward(static, feature, y, x):
  return _matrix_pool(static, feature, y, x), (y, x)


def _matrix_backward(static, axes, gradient):
  shape = (static.height, static.width, gradient.shape[-1])
  rows, columns = _cell_table(static, *axes)

  def add(total, row_and_gradient):
    row, gradient = row_and_gradient
    return total + _weigh("prk,prc->kc", row * columns, gradient), None

  start = jnp.zeros((shape[0] * shape[1], shape[2]), jnp.float32)
  total, _ = jax.lax.scan(add, start, (rows, gradient.transpose(1, 2, 0, 3)))
  return total.reshape(shape).astype(gradient.dtype), None, None


_matrix_pool.defvjp(_matrix_forward, _matrix_backward)


def _cell_table(static, y, x):
  """Weights of all cells k of the map: of their rows [o, 1, r, k], of their columns [o, r, k]."""
  rows, columns = _dense_weights(static, y, x)
  row, column = jnp.divmod(jnp.arange(static.height * static.width), static.width)
  rows = _matmul(rows, jax.nn.one_hot(row, static.height, axis=0))
  columns = _matmul(columns, jax.nn.one_hot(column, static.width, axis=0))
  return rows.swapaxes(0, 1)[:, None], columns.swapaxes(0, 1)


def _weigh(contraction, weights, values):
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


def _cell_range(static, axis):
  """First cell [r, o] under each bin, and how many cells [r] to visit from there."""
  axis = jax.tree.map(lambda a: a[:, None], axis)
  bins = jnp.array(static.bins, jnp.float32)[None]
  first = jnp.floor(_position(axis, bins, 0.0))
  last = jnp.floor(_position(axis, bins, jnp.maximum(axis.samples - 1, 0.0))) + 1
  first, last = jnp.clip(first, 0, axis.size - 1), jnp.clip(last, 0, axis.size - 1)
  count = jnp.where(axis.samples > 0, last - first + 1, 0.0)
  return first, jnp.max(count, axis=1).astype(jnp.int32)


def _visit(static, y, x, place, body, start):
  """Folds `body(carry, cell [r, o, o], weight [r, o, o])` over the cells under the bins.

  Every RoI enumerates its own rows x columns, so the number of steps is the largest number of
  cells that a bin of any RoI covers; RoIs that need fewer meet zero weights at the end.
  """
  first_row, rows = _cell_range(static, y)
  first_column, columns = _cell_range(static, x)

  def weigh(axis, cell):
    # A cell past the edge would repeat the edge once clipped.
    weight = _cell_weights(static, axis, cell[..., None])[..., 0]
    return jnp.where(cell < axis.size[:, None], weight, 0.0)

  def step(i, carry):
    row, column = jnp.divmod(i, jnp.maximum(columns, 1))
    row, column = first_row + row[:, None], first_column + column[:, None]
    live = (i < rows * columns)[:, None]
    row_weight = jnp.where(live, weigh(y, row), 0.0)
    column_weight = weigh(x, column)
    row = jnp.minimum(row, y.size[:, None] - 1).astype(jnp.int32)
    column = jnp.minimum(column, x.size[:, None] - 1).astype(jnp.int32)
    cell = (place.offset[:, None] + row * place.width[:, None])[:, :, None] + column[:, None, :]
    return body(carry, cell, row_weight[:, :, None] * column_weight[:, None, :])

  most = jnp.max(rows * columns, initial=0)
  if static.batch_axis is not None:
    most = jax.lax.pmax(most, static.batch_axis)
  return jax.lax.fori_loop(0, most, step, start)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather_pool(static, flat, y, x, place):
  def add(total, cell, weight):
    return total + weight[..., None] * flat[cell].astype(jnp.float32)

  shape = (y.start.shape[0], len(static.bins), len(static.bins), flat.shape[-1])
  return _visit(static, y, x, place, add, jnp.zeros(shape, jnp.float32)).astype(flat.dtype)


def _gather_forward(static, flat, y, x, place):
  return _gather_pool(static, flat, y, x, place), (y, x, place)


def _zeros_after(x, shape):
  """Float32 zeros that are made when `x` is known: XLA on a CPU makes constants at the start."""
  zero = (x.ravel()[:1].sum() > jnp.inf).astype(jnp.float32)
  return jnp.broadcast_to(zero, shape)


def _gather_backward(static, geometry, gradient):
  y, x, place = geometry

  def scatter(total, cell, weight):
    return total.at[cell].add(weight[..., None] * gradient.astype(jnp.float32))

  start = _zeros_after(gradient, (static.height * static.width, gradient.shape[-1]))
  total = _visit(static, y, x, place, scatter, start)
  return total.astype(gradient.dtype), None, None, None


_gather_pool.defvjp(_gather_forward, _gather_backward)
