"""RoIAlign (He et al. 2017) with the border rules of detectron2's `ROIAlignV2`.

A box is scaled to the feature map and shifted by -0.5 (pixel centres), cut into `output_size`
bins per axis, and each bin averages bilinear samples on a regular grid.  The grid is adaptive:
ceil(box side / output_size) samples per bin, box and axis (its `sampling_ratio` 0).  Samples beyond
[-1, size] count as zero, those between the edge and that limit read the edge.

Everything about an axis is separable, so a bin is a weighted sum of cells with weight
row_weight * column_weight.  The weights of a cell come from the few samples that can reach it,
which makes the result exact for boxes of any size with static shapes.  Four ways to sum:

* einsum: matrix products of dense row and column weights with the map; fast on small maps;
* gather: a loop over the cells under each bin, as many as the largest box needs; its cost does not
  grow with the map;
* matrix: one product of the weights of all cells of the map, zeros included, for each row of bins;
  what accelerators do best while the map is small, and as long for any box;
* tiles: a loop over the squares of cells under each RoI, whose cells one product weighs; what
  accelerators do with larger maps.

Weights and sums are float32 whatever the features are.  No gradient flows to the boxes, as
in the reference; the gradient to the features is the transpose of the same sum.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rkd_jax.machine import target
from rkd_jax.ops.roi_align import cells as by_cells
from rkd_jax.ops.roi_align import dense, grid
from rkd_jax.ops.roi_align import tiles as by_tiles
from rkd_jax.structures import Arr

_METHODS = ("auto", "einsum", "gather", "matrix", "tiles")

# Cells of all maps up to which accelerators weigh all of them for every bin.
_MATRIX_CELLS = 8192


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
  roi_chunk: int = 16,
  batch_axis: str | None = None,
) -> Float[Array, "r _o _o c"]:
  """Pools each box from the level of a feature pyramid that `boxes.assign_levels` gives it.

  Args:
    features: the map of each level.
    boxes: XYXY in image pixels; a box without extent, or that is not finite, gives zeros.
    levels: index of each box into the maps; None is for a single level.
    output_size: bins per axis.
    spatial_scales: cells per pixel of each map, 1 / stride.
    cells: the part (height, width) of each map that belongs to the image, where its border is;
      None is the whole map.
    bin_step: only every so-many-th bin is computed along both axes, for heads that begin with a
      strided 1x1 convolution.
    method: 'einsum', 'gather', 'matrix', 'tiles', or 'auto' to choose by the size of the maps and
      by what is compiled for.
    roi_chunk: RoIs pooled at a time by einsum, which bounds its memory to about
      roi_chunk * output_size * w * c floats an image.  Under a batch of images few stay in the
      caches: 80 RoIs of 16 images took a fifth of the time of 64 at once (two CPU cores).
    batch_axis: names the axis of a surrounding `jax.vmap` over images: their loops of `gather` and
      `tiles` then end together, else each step would copy all sums to keep those of images that
      ended before.

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
  y = grid.axis(scaled[:, 1], scaled[:, 3], sizes[:, 0], output_size)
  x = grid.axis(scaled[:, 0], scaled[:, 2], sizes[:, 1], output_size)

  if method == "gather":
    flat, place = _one_after_another([f[:, :, None] for f in features], levels)
    static = by_cells.Static(bins, flat.shape[0], batch_axis)
    return by_cells.gather_pool(static, flat[:, 0], y, x, place)
  if method == "tiles":
    flat, place = _one_after_another([by_tiles.cut(f) for f in features], levels)
    static = by_tiles.Static(bins, flat.shape[0], batch_axis)
    return by_tiles.tile_pool(static, flat, y, x, place)

  pooled = 0
  for level, feature in enumerate(features):
    # A box without samples pools to zero, so the sum over levels picks the right one.
    here = levels == level
    y_here = y._replace(samples=jnp.where(here, y.samples, 0))
    height, width = feature.shape[:2]
    static = dense.Static(bins, height, width, roi_chunk)
    pool = dense.matrix_pool if method == "matrix" else dense.einsum_pool
    pooled = pooled + pool(static, feature, y_here, x)  # pyright: ignore[reportOperatorIssue]
  return pooled  # pyright: ignore[reportReturnType]


def _one_after_another(maps, levels):
  """Maps [h, w, k, c] as one array [_, k, c], and the place there of the map of each RoI."""
  sizes = [h * w for h, w in (m.shape[:2] for m in maps)]
  offset = jnp.array([sum(sizes[:i]) for i in range(len(sizes))], jnp.int32)[levels]
  width = jnp.array([m.shape[1] for m in maps], jnp.int32)[levels]
  return jnp.concatenate([m.reshape(-1, *m.shape[2:]) for m in maps]), grid.Place(offset, width)


def _choose_method(features, bins):
  """Einsum while the dense weights waste little; matrix while they suit a unit for matrices."""
  cells = sum(f.shape[0] * f.shape[1] for f in features)
  if target.current().platform != "cpu":
    return "matrix" if cells <= _MATRIX_CELLS else "tiles"
  return "einsum" if cells <= 16 * bins**2 else "gather"
