"""Instance masks: polygons to targets in the frame of a box, and predictions back to the image.

Targets are those of detectron2's `rasterize_polygons_within_box`, pixel for pixel, and so follow
the arithmetic of pycocotools' `rleFrPoly`.  It rounds the vertices to a grid five times finer
than the pixels and walks along each edge of that grid.  A step across the middle of a pixel
column marks the fine row of the crossing, and a pixel is inside if the number of marks above it
in its column is odd.  An edge is monotone, so it marks a column at most once and in a place with
a closed form; the walk itself is not needed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.structures import Arr

_FINE = 5  # fine cells per pixel; pixel k is crossed between fine cells 5k + 2 and 5k + 3
_MAX_SIZE = 32  # rows of a column travel as the bits of a word


def rasterize(
  vertices: Float[Arr, "v 2"], owners: Int[Arr, "v"], box: Float[Arr, "4"], size: int = 28
) -> Bool[Array, "{size} {size}"]:
  """Mask of one instance within a box, size x size.

  The box's frame is scaled by size / max(side, 0.1) per axis.  Several polygons are united; one
  that crosses itself, or its repeated edges, follow the even-odd rule.

  The original computes in double, where the place of a rounding tie depends on the last bit; so
  does this function, whatever `jax_enable_x64` says.  TPUs emulate doubles less exactly: there a
  tie may fall to the other side.

  Args:
    vertices: XY in image pixels.
    owners: index of the polygon of each vertex, as `pack_polygons` gives them; -1 is padding.
    box: XYXY in image pixels.
    size: rows and columns of the mask.

  Raises:
    ValueError: for a size outside [1, 32].
  """
  if not 1 <= size <= _MAX_SIZE:
    raise ValueError(f"rasterize: size={size}; expected 1 to {_MAX_SIZE}.")
  vertices, box = jax.lax.stop_gradient((jnp.asarray(vertices), jnp.asarray(box)))
  owners = jnp.asarray(owners)
  index = jnp.arange(owners.shape[0])
  is_first = owners != jnp.roll(owners, 1).at[0].set(-2)
  is_last = owners != jnp.roll(owners, -1).at[-1].set(-2)
  first = jax.lax.cummax(jnp.where(is_first, index, 0))
  following = jnp.where(is_last, first, index + 1)

  fine = _fine_grid(vertices, box, size)
  marks = _edge_marks(fine, fine[following], size)
  marks = jnp.where(owners[:, None] >= 0, marks, jnp.uint32(0))

  # A polygon's columns are the exclusive or of its edges' marks: the part of a running
  # exclusive or that lies between its first and its last edge.
  running = jax.lax.associative_scan(jnp.bitwise_xor, marks)
  inside = jnp.where(is_last[:, None], running ^ running[first] ^ marks[first], jnp.uint32(0))
  columns = jax.lax.reduce(inside, np.uint32(0), jax.lax.bitwise_or, (0,))
  rows = jnp.arange(size, dtype=jnp.uint32)
  return ((columns[None, :] >> rows[:, None]) & 1).astype(bool)


def _fine_grid(vertices, box, size):
  """Vertices as whole cells of the fine grid in the frame of the box; float32 [v, 2]."""
  side = box[2:] - box[:2]
  with jax.enable_x64(True):
    # The original's ratio is a float32; dividing in double and rounding gives the same.
    ratio = size / jnp.maximum(side.astype(jnp.float64), 0.1)
    ratio = jax.lax.reduce_precision(ratio, exponent_bits=8, mantissa_bits=23)
    scaled = (vertices.astype(jnp.float64) - box[:2].astype(jnp.float64)) * ratio
    cells = jnp.trunc(_product(scaled, float(_FINE)) + 0.5)
    return jnp.clip(cells, -(2.0**24), 2.0**24).astype(jnp.float32)


def _edge_marks(start, end, size):
  """For each edge and column the rows at and below its mark, as bits; uint32 [v, size]."""
  with jax.enable_x64(True):
    start, end = start.astype(jnp.float64), end.astype(jnp.float64)
    extent = jnp.abs(end - start)
    steep = extent[:, 0] < extent[:, 1]
    # The walk goes up along the longer extent.
    major = steep.astype(jnp.int32)
    swap = jnp.take_along_axis(start > end, major[:, None], axis=1)
    start, end = jnp.where(swap, end, start), jnp.where(swap, start, end)
    (x0, y0), (x1, y1) = start.T[..., None], end.T[..., None]
    steep = steep[:, None]

    low = (_FINE * jnp.arange(size) + _FINE // 2).astype(jnp.float64)[None]
    crosses = (jnp.minimum(x0, x1) <= low) & (jnp.maximum(x0, x1) > low)

    # Flat: one step per fine column, at fine rows floor(y0 + slope * t + 0.5).
    slope = (y1 - y0) / jnp.maximum(x1 - x0, 1.0)
    step = low - x0
    here = y0 + _product(slope, step) + 0.5
    there = y0 + _product(slope, step + 1) + 0.5
    flat_row = jnp.floor(jnp.minimum(here, there))

    # Steep: one step per fine row; the last step before the fine column changes from `low` to
    # the next or back.  The quotient may be off by a step, so the rounding of the walk decides.
    slope = (x1 - x0) / jnp.maximum(y1 - y0, 1.0)
    rising = slope > 0
    guess = jnp.floor((low + 0.5 - x0) / jnp.where(slope == 0, 1.0, slope))

    def before(step):
      return ((x0 + _product(slope, step) + 0.5) < low + 1) == rising

    steep_row = y0 + guess - 1 + before(guess) + before(guess + 1)

    # Fine row r is marked: pixel rows whose middle, fine row 5k + 2, is not above it.
    row = jnp.floor((jnp.where(steep, steep_row, flat_row) + _FINE // 2) / _FINE)
    row = jnp.clip(jnp.where(crosses, row, _MAX_SIZE), 0, _MAX_SIZE).astype(jnp.uint32)
  return jnp.where(row < _MAX_SIZE, jnp.uint32(0xFFFFFFFF) << row, jnp.uint32(0))


def _product(a, b):
  """`a * b` in double, rounded before it is added to anything, for |b| below 2**24.

  A compiler may fuse a product with a following sum and then rounds once, not twice.  Here both
  partial products are exact and the fused sum is the rounding of the product.
  """
  high = jax.lax.reduce_precision(a, exponent_bits=11, mantissa_bits=26)
  return high * b + (a - high) * b


def paste(
  mask: Float[np.ndarray, "mh mw"], box: Float[np.ndarray, "4"], height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
  """A predicted mask at its place in the image, on the host; `>= 0.5` makes it binary.

  Pixel centres (+0.5) read the mask bilinearly, zero outside it (detectron2's
  `paste_masks_in_image`, torch's `grid_sample` without aligned corners).  NumPy, because images
  differ in size and evaluation encodes one mask at a time.

  Args:
    mask: probabilities.
    box: XYXY in pixels of the image to paste into; may reach beyond it.  A box without extent
      pastes nothing.
    height, width: of the image.
  """
  image = np.zeros((height, width), np.float32)
  x0, y0, x1, y1 = np.asarray(box, np.float32)
  if not (x1 > x0 and y1 > y0):
    return image
  rows, row_weights = _paste_weights(y0, y1, mask.shape[0], height)
  columns, column_weights = _paste_weights(x0, x1, mask.shape[1], width)
  image[rows, columns] = row_weights @ mask.astype(np.float32) @ column_weights.T
  return image


def _paste_weights(low, high, cells, pixels):
  """The pixels that a box side can reach, and the weight of each mask cell in them."""
  # Half a mask cell beyond the box still reads the outermost cell.
  reach = (high - low) / (2 * cells) + 1
  window = slice(max(int(low - reach), 0), max(min(int(high + reach) + 1, pixels), 0))
  centers = np.arange(window.start, window.stop, dtype=np.float32) + np.float32(0.5)
  position = (centers - low) / (high - low) * cells - np.float32(0.5)
  weights = 1 - np.abs(position[:, None] - np.arange(cells, dtype=np.float32))
  return window, np.maximum(weights, 0).astype(np.float32)
