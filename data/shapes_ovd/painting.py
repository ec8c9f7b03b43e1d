"""What a scene of shapes_ovd is painted with: objects, where they go, and their looks."""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter

from rkd_jax.data.shapes_ovd.shapes import silhouette

MIN_VISIBLE = 0.6
_PLACEMENTS_TRIED = 8

_RGB = dict(red=(214, 34, 34), yellow=(246, 210, 36), green=(40, 150, 52), blue=(38, 74, 216))
_LIGHT_INK, _DARK_INK = (244, 242, 236), (34, 30, 40)
# The second colour of stripes and dots is whichever contrasts more.
INK = {colour: _DARK_INK if colour == "yellow" else _LIGHT_INK for colour in _RGB}


@dataclasses.dataclass(frozen=True)
class Scene:
  """A rendered scene.

  `image` is RGB uint8 [h, w, 3]; `boxes` float32 [n, 4], XYXY pixels around the
  visible pixels; `classes` int32 [n]; `visible` float32 [n], the part of each
  silhouette that is neither hidden nor outside the image; `owners` uint8 [h, w]
  is 0 for background and k + 1 where object k is seen.
  """

  image: np.ndarray
  boxes: np.ndarray
  classes: np.ndarray
  visible: np.ndarray
  owners: np.ndarray
  captions: tuple[str, ...]


# From the longest side of an object to its class, alpha mask [h, w] and colours [h, w, 3].
Draw = Callable[
  [np.random.Generator, float],
  tuple[int, Float[np.ndarray, "h w"], Float[np.ndarray, "h w 3"]],
]


def place_objects(
  rng: np.random.Generator, canvas: np.ndarray, scales: np.ndarray, draw: Draw
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Draws objects onto `canvas`, back to front, leaving at least MIN_VISIBLE of each in sight.

  Returns classes [n], boxes [n, 4], visible fractions [n] and the owner map.
  An object for which no place is found is left out.
  """
  rows, columns = canvas.shape[:2]
  owners = np.zeros((rows, columns), np.uint8)
  classes, areas, seen_areas = [], [], np.zeros(0, int)
  for scale in scales:
    label, alpha, paint = draw(rng, scale)
    height, width = alpha.shape
    solid = alpha > 0.5
    area = np.count_nonzero(solid)
    for _ in range(_PLACEMENTS_TRIED):
      # Up to a tenth of an object may lie outside the image.
      top = int(rng.uniform(-0.1 * height, rows - 0.9 * height))
      left = int(rng.uniform(-0.1 * width, columns - 0.9 * width))
      y0, x0 = max(top, 0), max(left, 0)
      y1, x1 = min(top + height, rows), min(left + width, columns)
      inside = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
      seen = solid[inside]
      under = owners[y0:y1, x0:x1]
      left_over = seen_areas - np.bincount(under[seen], minlength=len(areas) + 1)[1:]
      hides_too_much = (left_over < MIN_VISIBLE * np.array(areas)).any()
      if np.count_nonzero(seen) >= 0.8 * area and not hides_too_much:
        break
    else:
      continue
    classes.append(label)
    areas.append(area)
    seen_areas = np.append(left_over, np.count_nonzero(seen))
    under[seen] = len(areas)
    cover = alpha[inside][..., None]
    patch = canvas[y0:y1, x0:x1]
    patch += cover * (paint[inside] - patch)
  boxes = [tight_box(owners == k + 1) for k in range(len(areas))]
  visible = seen_areas / np.array(areas)
  return (
    np.array(classes, np.int32),
    np.array(boxes, np.float32).reshape(-1, 4),
    visible.astype(np.float32),
    owners,
  )


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@functools.cache
def _turned_silhouette(shape: str, angle: int) -> Image.Image:
  mask = silhouette(shape).rotate(angle, Image.Resampling.BILINEAR)
  return mask.crop(mask.getbbox())


def turned_mask(shape: str, angle: int, scale: float, aspect: float) -> np.ndarray:
  """Alpha mask in [0, 1], cropped to the turned silhouette, longest side `scale` pixels."""
  mask = _turned_silhouette(shape, angle)
  width, height = mask.width * aspect**0.5, mask.height / aspect**0.5
  factor = scale / max(width, height)
  new_size = max(round(width * factor), 3), max(round(height * factor), 3)
  return np.asarray(mask.resize(new_size, Image.Resampling.HAMMING), np.float32) / 255


def inked_part(
  rng: np.random.Generator, pattern: str, size: tuple[int, int], angle: int, scale: float
) -> np.ndarray:
  """How much of each pixel has the second colour: stripes or dots, turned with the object."""
  height, width = size
  x = np.arange(width, dtype=np.float32)
  y = np.arange(height, dtype=np.float32)[:, None]
  c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
  u, v = c * x - s * y, s * x + c * y
  if pattern == "solid":
    return np.zeros(size, np.float32)
  if pattern == "striped":
    period = max(scale * rng.uniform(0.2, 0.26), 5.0)
    distance = np.abs((v / period + rng.random()) % 1 - 0.5) * period
    return np.clip(distance - 0.3 * period + 0.5, 0, 1)
  period = max(scale * rng.uniform(0.2, 0.26), 5.0)
  du = ((u / period + rng.random()) % 1 - 0.5) * period
  dv = ((v / period + rng.random()) % 1 - 0.5) * period
  return np.clip(0.29 * period - np.hypot(du, dv) + 0.5, 0, 1)


def inner_part(alpha: np.ndarray) -> np.ndarray:
  """The alpha mask without an edge of one pixel, where an outline is drawn."""
  padded = Image.fromarray((np.pad(alpha, 1) * 255).astype(np.uint8))
  return np.asarray(padded.filter(ImageFilter.MinFilter(3)), np.float32)[1:-1, 1:-1] / 255


def paint_object(
  rng: np.random.Generator, pattern: str, colour: str, alpha: np.ndarray, angle: int, scale: float
) -> np.ndarray:
  """The object's colours, float32 [h, w, 3]: look, jitter, shading and perhaps an outline."""
  height, width = alpha.shape
  # Python floats keep the arithmetic on arrays in float32.
  main = np.array(_RGB[colour], np.float32) * rng.uniform(0.88, 1.1) + rng.uniform(-12, 12, 3)
  ink = np.array(INK[colour], np.float32) + rng.uniform(-12, 12)
  inked = inked_part(rng, pattern, (height, width), angle, scale)
  paint = main.astype(np.float32) + inked[..., None] * (ink - main).astype(np.float32)
  light = np.ones_like(alpha)
  if rng.random() < 0.5:
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    direction = rng.uniform(0, 2 * math.pi)
    slope = math.cos(direction) * (x / width - 0.5) + math.sin(direction) * (y / height - 0.5)
    light = light + rng.uniform(0.1, 0.35) * slope
  # One pixel of outline would swallow the parts of a very small object.
  if scale > 22 and rng.random() < 0.6:
    light = light * (0.45 + 0.55 * inner_part(alpha))
  return paint * light[..., None]


def noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
  """A coarse random grid [cells, cells] as a smooth field [size, size]."""
  grid = rng.standard_normal((cells, cells), dtype=np.float32)
  return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
  """Slight blur, exposure change and sensor noise; uint8."""
  exposed = np.clip(canvas * rng.uniform(0.9, 1.08), 0, 255).astype(np.uint8)
  blurred = Image.fromarray(exposed).filter(ImageFilter.BoxBlur(rng.uniform(0, 0.4)))
  grain = rng.uniform(4, 20) * (rng.random(canvas.shape, dtype=np.float32) - 0.5)
  return np.clip(np.asarray(blurred) + grain, 0, 255).astype(np.uint8)
