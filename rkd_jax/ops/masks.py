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
_MAX_PLACE = 2.0**14  # pixels from the origin
_FRACTION = 44  # bits of a pixel that coordinates keep
_MAX_CELL = 2**24


def rasterize(
  vertices: Float[Arr, "v 2"], owners: Int[Arr, "v"], box: Float[Arr, "4"], size: int = 28
) -> Bool[Array, "{size} {size}"]:
  """Mask of one instance within a box, size x size.

  The box's frame is scaled by size / max(side, 0.1) per axis.  Several polygons are united; one
  that crosses itself, or its repeated edges, follow the even-odd rule.

  The original computes in double, where the place of a rounding tie depends on the last bit.
  Here everything is in integers, which are the same on every device, and such ties are decided
  as the original's doubles do.  Coordinates count up to 16,384 pixels from the origin.

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
  is_first = owners != jnp.roll(owners, 1).at[0].set(-2)
  is_last = owners != jnp.roll(owners, -1).at[-1].set(-2)
  fine = _fine_grid(vertices, box, size)
  first = _running(lambda a, b: a, fine, is_first)
  following = jnp.where(is_last[:, None], first, jnp.roll(fine, -1, axis=0))
  marks = _edge_marks(fine, following, size)
  marks = jnp.where(owners[:, None] >= 0, marks, jnp.uint32(0))

  # A polygon's columns are the exclusive or of its edges' marks.
  inside = _running(jnp.bitwise_xor, marks, is_first)
  inside = jnp.where(is_last[:, None], inside, jnp.uint32(0))
  columns = jax.lax.reduce(inside, np.uint32(0), jax.lax.bitwise_or, (0,))
  rows = jnp.arange(size, dtype=jnp.uint32)
  return ((columns[None, :] >> rows[:, None]) & 1).astype(bool)


def _running(combine, values, is_first):
  """The values [v, n] of each polygon up to each vertex, combined; nothing has to be gathered."""

  def join(a, b):
    begins = b[0]
    return a[0] | begins, jnp.where(begins, b[1], combine(a[1], b[1]))

  return jax.lax.associative_scan(join, (is_first[:, None], values))[1]


def _fine_grid(vertices, box, size):
  """Vertices as whole cells of the fine grid in the frame of the box; int32 [v, 2].

  trunc(5 * (vertex - corner) * ratio + 0.5), where the ratio is rounded to float32 as in the
  original and the rest is exact: its doubles hold these products of floats, too, but for
  differences that no tie depends on.
  """
  side = jnp.maximum(box[2:] - box[:2], jnp.float32(0.1))
  mantissa, exponent = _float_parts(side)
  ratio, rest, shift = _long_division(jnp.int32(size), mantissa, 24)
  ratio += (2 * rest > mantissa) | ((2 * rest == mantissa) & (ratio % 2 == 1))
  with jax.enable_x64(True):
    place = _fixed_point(vertices) - _fixed_point(box[:2])
    # Of 5 * ratio * place the lowest 24 bits are held apart: all would not fit into 64.
    factor = _FINE * ratio.astype(jnp.int64)
    tail = factor * (place & 0xFFFFFF)
    product, tail = factor * (place >> 24) + (tail >> 24), tail & 0xFFFFFF
    # One cell is 2**point.
    point = jnp.clip(_FRACTION - 24 + 23 + shift + exponent, 1, 62).astype(jnp.int64)
    one = jnp.int64(1) << point
    product += one >> 1
    cells = product >> point
    cells += (cells < 0) & ((product & (one - 1) != 0) | (tail != 0))  # truncation is upward
    return jnp.clip(cells, -_MAX_CELL, _MAX_CELL).astype(jnp.int32)


def _float_parts(x):
  """Mantissa (24 bits, without sign) and exponent of floats: |x| = mantissa * 2**exponent."""
  bits = jax.lax.bitcast_convert_type(x, jnp.int32)
  exponent = (bits >> 23) & 0xFF
  mantissa = (bits & 0x7FFFFF) | jnp.where(exponent > 0, 1 << 23, 0)
  return mantissa, jnp.maximum(exponent, 1) - 150


def _fixed_point(x):
  """Coordinates as int64 multiples of 2**-_FRACTION, cut off below that."""
  x = jnp.clip(x, -_MAX_PLACE, _MAX_PLACE)
  mantissa, exponent = _float_parts(x)
  mantissa, shift = mantissa.astype(jnp.int64), (exponent + _FRACTION).astype(jnp.int64)
  place = jnp.where(
    shift < 0, mantissa >> jnp.clip(-shift, 0, 63), mantissa << jnp.maximum(shift, 0)
  )
  return jnp.where(x < 0, -place, place)


def _long_division(a, b, bits):
  """a / b for 0 < a <= b < 2**30 to so many significant bits.

  Returns:
    The quotient cut off, without its leading bits if there are more than 32; the remainder;
    and `shift`, for which a / b lies in [2**-shift, 2**(1 - shift)).
  """
  shift = jax.lax.clz(a) - jax.lax.clz(b)
  low = (a << shift) < b
  shift = shift + low
  rest = (a << shift) - b  # the first bit is 1

  def next_bit(_, state):
    quotient, rest = state
    rest = 2 * rest
    bit = rest >= b
    return 2 * quotient + bit, jnp.where(bit, rest - b, rest)

  # Not unrolled in full: fused with its readers it would be repeated for each of them.
  quotient, rest = jax.lax.fori_loop(0, bits - 1, next_bit, (jnp.ones_like(rest), rest), unroll=4)
  return quotient, rest, shift


def _edge_marks(start, end, size):
  """For each edge and column the rows at and below its mark, as bits; uint32 [v, size]."""
  extent = jnp.abs(end - start)
  steep = extent[:, 0] < extent[:, 1]
  # The walk goes up along the longer extent.
  swap = jnp.where(steep, start[:, 1] > end[:, 1], start[:, 0] > end[:, 0])[:, None]
  start, end = jnp.where(swap, end, start), jnp.where(swap, start, end)
  (x0, y0), (x1, y1) = start.T[..., None], end.T[..., None]
  steep = steep[:, None]

  low = (_FINE * jnp.arange(size, dtype=jnp.int32) + _FINE // 2)[None]
  crosses = (jnp.minimum(x0, x1) <= low) & (jnp.maximum(x0, x1) > low)

  # After `step` cells along the longer extent the edge is at floor(origin + slope * step + 0.5)
  # along the shorter one, where slope = +-a / b.
  origin, along = jnp.where(steep, x0, y0), jnp.where(steep, y1 - y0, x1 - x0)
  across = jnp.where(steep, x1 - x0, y1 - y0)
  rising = across > 0
  a, b = jnp.maximum(jnp.abs(across), 1), jnp.maximum(along, 1)
  # Flat: one step per fine column, of which the two about the middle count; the place after the
  # lower of them.  Steep: one step per fine row; the last before the fine column changes from
  # `low` to the next or back.
  flat_step = low - x0 + (across < 0)
  change = jnp.where(rising, 2 * (low - x0) + 1, 2 * (x0 - low) - 1)
  with jax.enable_x64(True):
    signed = across.astype(jnp.int64) * 2
    numerator = jnp.where(steep, change * b.astype(jnp.int64), signed * flat_step + b)
    quotient, is_tie = _floor_divide(numerator, 2 * jnp.where(steep, a, b))
  step = jnp.where(steep, quotient, flat_step)
  twice = jnp.where(steep, jnp.where(rising, change, -change), 2 * quotient - 1)
  falls = is_tie & _falls_below(a, b, rising, step, twice, origin)
  # A steep edge that rises has not yet changed column where the original falls below the tie.
  early = jnp.where(steep & rising, is_tie & ~falls, falls)
  row = y0 + quotient - early

  # Fine row r is marked: pixel rows whose middle, fine row 5k + 2, is not above it.
  row = (row + _FINE // 2) // _FINE
  row = jnp.clip(jnp.where(crosses, row, _MAX_SIZE), 0, _MAX_SIZE).astype(jnp.uint32)
  return jnp.where(row < _MAX_SIZE, jnp.uint32(0xFFFFFFFF) << row, jnp.uint32(0))


def _floor_divide(a, b):
  """floor(a / b) as int32 and whether b divides a; a int64 with |a| < 2**52, 0 < b < 2**27.

  Integer division of 64 bits is slow where there is no instruction for it.
  """
  divisor, wide = b.astype(jnp.float32), b.astype(jnp.int64)
  quotient, rest = jnp.int32(0), a
  for _ in range(2):  # off by a few, then by one
    part = jnp.floor(rest.astype(jnp.float32) / divisor).astype(jnp.int32)
    quotient, rest = quotient + part, rest - wide * part
  quotient = quotient + (rest >= wide) - (rest < 0)
  return quotient, (rest == 0) | (rest == wide)


def _falls_below(a, b, rising, step, twice, origin):
  """Whether the original's doubles take a tie for less than it is.

  There origin + slope * step + 0.5 is a whole number, but slope = +-a / b was rounded to 53 bits,
  and so is everything after it.  The product is `twice` / 2; if it comes out one unit in its
  last place lower, and neither sum rounds that away, then the floor is one less.

  Args:
    a, b: of the slope's size, 0 < a <= b.
    rising: the slope's sign.
    step: cells along the longer extent.
    twice: twice the exact product, an odd number.
    origin: where the edge begins along the shorter extent.
  """
  _, rest, shift = _long_division(a, b, 53)
  # How far the rounded slope is towards lower products, in units of its last bit / b.
  short = jnp.where(rising, jnp.where(2 * rest < b, rest, 0), jnp.where(2 * rest > b, b - rest, 0))
  # Exponents of the last places below: one less where a power of two is left downwards.
  place = _exponent(twice) - (rising & (twice == 1))
  with jax.enable_x64(True):
    error = 4 * short.astype(jnp.int64) * step
    half_place = b.astype(jnp.int64) << jnp.clip(shift + place, 0, 36).astype(jnp.int64)
    moves = error > half_place
  sums = []
  for total in (2 * origin + twice, 2 * origin + twice + 1):
    is_power = (total > 0) & (total & (total - 1) == 0)
    sums.append((total == 0) | (place >= _exponent(total) - is_power))
  return moves & sums[0] & sums[1]


def _exponent(x):
  """floor(log2(|x|)) of integers that are not 0."""
  return 31 - jax.lax.clz(jnp.abs(x))


def paste(
  mask: Float[np.ndarray, "mh mw"], box: Float[np.ndarray, "4"], height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
  """A predicted mask at its place in the image, on the host; `>= 0.5` makes it binary.

  The arguments are those of `paste_window`, which gives the part that is not zero alone.
  """
  image = np.zeros((height, width), np.float32)
  window, values = paste_window(mask, box, height, width)
  image[window] = values
  return image


def paste_window(
  mask: Float[np.ndarray, "mh mw"], box: Float[np.ndarray, "4"], height: int, width: int
) -> tuple[tuple[slice, slice], Float[np.ndarray, "h w"]]:
  """The rows and columns of an image that a predicted mask can reach, and its values there.

  Pixel centres (+0.5) read the mask bilinearly, zero outside it (detectron2's
  `paste_masks_in_image`, torch's `grid_sample` without aligned corners).  NumPy, because images
  differ in size and evaluation encodes one mask at a time.

  Args:
    mask: probabilities.
    box: XYXY in pixels of the image to paste into; may reach beyond it.  A box without extent
      pastes nothing.
    height, width: of the image.
  """
  x0, y0, x1, y1 = np.asarray(box, np.float32)
  if not (x1 > x0 and y1 > y0):
    return (slice(0), slice(0)), np.zeros((0, 0), np.float32)
  rows, row_weights = _paste_weights(y0, y1, mask.shape[0], height)
  columns, column_weights = _paste_weights(x0, x1, mask.shape[1], width)
  return (rows, columns), row_weights @ mask.astype(np.float32) @ column_weights.T


def _paste_weights(low, high, cells, pixels):
  """The pixels that a box side can reach, and the weight of each mask cell in them."""
  # Half a mask cell beyond the box still reads the outermost cell.
  reach = (high - low) / (2 * cells) + 1
  window = slice(max(int(low - reach), 0), max(min(int(high + reach) + 1, pixels), 0))
  centers = np.arange(window.start, window.stop, dtype=np.float32) + np.float32(0.5)
  position = (centers - low) / (high - low) * cells - np.float32(0.5)
  weights = 1 - np.abs(position[:, None] - np.arange(cells, dtype=np.float32))
  return window, np.maximum(weights, 0).astype(np.float32)
