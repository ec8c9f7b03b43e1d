"""Scenes of shapes_ovd: each a pure function of (seed, split, index).

A scene is a cluttered, textured background and a few objects that may hide one
another in part.  Detection splits are 128×128 with 3 to 6 objects; the `clip`
split is 48×48 and mostly framed on one subject, as photographs with captions
are.  Boxes bound the *visible* pixels, as annotators draw them.
"""

import dataclasses
import functools
import hashlib
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from rkd_jax.data.shapes_ovd import vocabulary
from rkd_jax.data.shapes_ovd.shapes import silhouette

SPLITS = ("clip", "train_boxes", "train_images", "tune", "validation")
DETECTION_SIZE = 128
CLIP_SIZE = 48
MIN_VISIBLE = 0.6
_PLACEMENTS_TRIED = 8

_RGB = dict(red=(214, 34, 34), yellow=(246, 210, 36), green=(40, 150, 52), blue=(38, 74, 216))
_LIGHT_INK, _DARK_INK = (244, 242, 236), (34, 30, 40)
# The second colour of stripes and dots is whichever contrasts more.
_INK = {colour: _DARK_INK if colour == "yellow" else _LIGHT_INK for colour in _RGB}

# Of captions, by the number of names in them.
TEMPLATES = {
  1: ("a photo of a {}", "a picture of a {}", "there is a {} here", "one can see a {}", "a {}"),
  2: (
    "a photo of a {} and a {}",
    "there is a {} next to a {}",
    "a {} near a {}",
    "a {} together with a {}",
  ),
  3: (
    "a photo of a {}, a {} and a {}",
    "a {} and a {} beside a {}",
    "there is a {} between a {} and a {}",
    "a picture with a {}, a {} and a {}",
  ),
}
_WITHOUT_NAMES = "a photo of a few things"


@dataclasses.dataclass(frozen=True)
class Scene:
  """A rendered scene.

  `image` is RGB uint8 [s, s, 3]; `boxes` float32 [n, 4], XYXY pixels around the
  visible pixels; `classes` int32 [n]; `visible` float32 [n], the part of each
  silhouette that is neither hidden nor outside the image; `owners` uint8 [s, s]
  is 0 for background and k + 1 where object k is seen.
  """

  image: np.ndarray
  boxes: np.ndarray
  classes: np.ndarray
  visible: np.ndarray
  owners: np.ndarray
  captions: tuple[str, ...]


def make_scene(seed: int, split: str, index: int) -> Scene:
  """Scene number `index` of one of SPLITS (else ValueError); the same arguments, the same bytes."""
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r} of shapes_ovd; the splits are {', '.join(SPLITS)}")
  rng = np.random.default_rng([seed, SPLITS.index(split), index])
  if split == "clip":
    return _portrait(rng) if rng.random() < 0.85 else _group(rng)
  canvas = _background(rng, DETECTION_SIZE)
  scales = np.exp(rng.uniform(np.log(18), np.log(60), rng.integers(3, 7)))
  classes, boxes, visible, owners = _place_objects(rng, canvas, scales)
  nameable = [c for c in classes if vocabulary.CLASS_NAMES[c] not in vocabulary.OTHER]
  count = min(len(nameable), rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))
  mentioned = rng.permutation(nameable)[:count].astype(int)
  caption = _caption(rng, mentioned)
  return Scene(_photograph(rng, canvas), boxes, classes, visible, owners, (caption,))


def fingerprint(seed: int) -> str:
  """Changes when the way scenes are made changes: a checksum over the first ones."""
  digest = hashlib.sha256()
  for split in SPLITS:
    for index in range(3):
      scene = make_scene(seed, split, index)
      digest.update(scene.image.tobytes() + scene.boxes.tobytes() + scene.classes.tobytes())
      digest.update(" ".join(scene.captions).encode())
  return digest.hexdigest()[:16]


def _group(rng: np.random.Generator) -> Scene:
  """A captioned photograph of two or three objects, all of them named."""
  canvas = _background(rng, CLIP_SIZE)
  scales = CLIP_SIZE * rng.uniform(0.32, 0.55, rng.integers(2, 4))
  classes, boxes, visible, owners = _place_objects(rng, canvas, scales)
  caption = _caption(rng, list(classes))
  return Scene(_photograph(rng, canvas), boxes, classes, visible, owners, (caption,))


def _portrait(rng: np.random.Generator) -> Scene:
  """A captioned photograph framed on one subject, as most on the web are.

  Whatever else the frame happens to hold goes unmentioned.  The scene is drawn at
  the scale of the detection splits and the frame is then brought to CLIP_SIZE, so
  that subjects near and far differ in sharpness as they do in photographs.
  """
  wide = 96
  canvas = _background(rng, wide)
  scales = np.exp(rng.uniform(np.log(18), np.log(60), rng.integers(1, 4)))
  classes, boxes, visible, owners = _place_objects(rng, canvas, scales)
  # The nearest object hides others and is hidden by none.
  subject = len(classes) - 1
  left, top, right, bottom = boxes[subject]
  side = min(max(right - left, bottom - top) * rng.uniform(1.05, 1.6), wide)
  x = np.clip(rng.uniform(right - side, left), 0, wide - side)
  y = np.clip(rng.uniform(bottom - side, top), 0, wide - side)
  frame = (x, y, x + side, y + side)
  size = (CLIP_SIZE, CLIP_SIZE)
  picture = Image.fromarray(_photograph(rng, canvas))
  seen = Image.fromarray((owners == subject + 1).astype(np.uint8))
  image = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, frame))
  owner = np.asarray(seen.resize(size, Image.Resampling.NEAREST, frame))
  return Scene(
    image=image,
    boxes=np.array([_tight_box(owner == 1)], np.float32),
    classes=classes[subject : subject + 1],
    visible=visible[subject : subject + 1],
    owners=owner,
    captions=(_caption(rng, [classes[subject]]),),
  )


def _caption(rng: np.random.Generator, classes: list[int]) -> str:
  names = [vocabulary.CLASS_NAMES[c] for c in classes]
  if not names:
    return _WITHOUT_NAMES
  templates = TEMPLATES[len(names)]
  return templates[rng.integers(len(templates))].format(*names)


def _noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
  """A coarse random grid [cells, cells] as a smooth field [size, size]."""
  grid = rng.standard_normal((cells, cells), dtype=np.float32)
  return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def _muted_colour(rng: np.random.Generator) -> np.ndarray:
  grey = rng.uniform(60, 200)
  return grey + rng.uniform(-18, 18, 3)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
  """Two muted colours mixed by a gradient and noise, with low-contrast strokes: f32 [s, s, 3]."""
  x = np.arange(size, dtype=np.float32) / size - 0.5
  y = x[:, None]
  angle = rng.uniform(0, 2 * math.pi)
  blend = 0.5 + math.cos(angle) * x + math.sin(angle) * y
  blend += rng.uniform(0.1, 0.5) * _noise(rng, rng.integers(3, 7), size)
  first = _muted_colour(rng)
  second = first + rng.uniform(-55, 55) + rng.uniform(-15, 15, 3)
  mix = np.clip(blend, 0, 1)[..., None]
  canvas = first.astype(np.float32) + mix * (second - first).astype(np.float32)
  texture = rng.uniform(2, 14) * _noise(rng, rng.integers(size // 8, size // 3), size)
  if rng.random() < 0.3:
    pitch = rng.uniform(4, 14) / size
    phase = 2 * math.pi / pitch * (math.sin(angle) * x + y)
    texture = texture + rng.uniform(4, 10) * np.sin(phase)
  canvas += texture[..., None]
  return _strokes(rng, np.clip(canvas, 0, 255).astype(np.uint8))


def _strokes(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
  """Blobs, lines and scribbles in colours close to what they are drawn on; f32 [s, s, 3]."""
  size = canvas.shape[0]
  image = Image.fromarray(canvas)
  draw = ImageDraw.Draw(image)
  for kind in rng.integers(0, 3, rng.integers(2, size // 12)):
    x, y = rng.integers(0, size, 2)
    shift = rng.uniform(12, 34) * (2 * rng.integers(2) - 1) + rng.uniform(-10, 10, 3)
    colour = tuple(np.clip(canvas[y, x] + shift, 0, 255).astype(int).tolist())
    reach = rng.uniform(0.08, 0.3) * size
    if kind == 0:
      radii = np.repeat(rng.uniform(0.4, 1, 5), 2) * reach * 0.8
      t = np.linspace(0, 2 * np.pi, 10, endpoint=False)
      draw.polygon(list(zip(x + radii * np.cos(t), y + radii * np.sin(t))), fill=colour)
    else:
      steps = rng.uniform(-reach, reach, (2 if kind == 1 else 6, 2))
      path = np.cumsum(np.concatenate([[[x, y]], steps * (3 if kind == 1 else 1)]), axis=0)
      draw.line([tuple(p) for p in path], fill=colour, width=int(rng.integers(1, 4)))
  return np.asarray(image).astype(np.float32)


def _place_objects(
  rng: np.random.Generator, canvas: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Draws objects onto `canvas`, back to front, leaving at least MIN_VISIBLE of each in sight.

  Returns classes [n], boxes [n, 4], visible fractions [n] and the owner map.
  An object for which no place is found is left out.
  """
  size = canvas.shape[0]
  owners = np.zeros((size, size), np.uint8)
  classes, areas, seen_areas = [], [], np.zeros(0, int)
  for scale in scales:
    label = int(rng.integers(len(vocabulary.CLASS_NAMES)))
    pattern, colour, shape = vocabulary.ATTRIBUTES[label]
    angle = int(rng.integers(-20, 21))
    alpha = _turned_mask(shape, angle, scale, rng.uniform(0.88, 1.12))
    paint = _paint(rng, pattern, colour, alpha, angle, scale)
    height, width = alpha.shape
    solid = alpha > 0.5
    area = np.count_nonzero(solid)
    for _ in range(_PLACEMENTS_TRIED):
      # Up to a tenth of an object may lie outside the image.
      top = int(rng.uniform(-0.1 * height, size - 0.9 * height))
      left = int(rng.uniform(-0.1 * width, size - 0.9 * width))
      y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + height, size), min(left + width, size)
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
  boxes = [_tight_box(owners == k + 1) for k in range(len(areas))]
  visible = seen_areas / np.array(areas)
  return (
    np.array(classes, np.int32),
    np.array(boxes, np.float32).reshape(-1, 4),
    visible.astype(np.float32),
    owners,
  )


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@functools.cache
def _turned_silhouette(shape: str, angle: int) -> Image.Image:
  mask = silhouette(shape).rotate(angle, Image.Resampling.BILINEAR)
  return mask.crop(mask.getbbox())


def _turned_mask(shape: str, angle: int, scale: float, aspect: float) -> np.ndarray:
  """Alpha mask in [0, 1], cropped to the turned silhouette, longest side `scale` pixels."""
  mask = _turned_silhouette(shape, angle)
  width, height = mask.width * aspect**0.5, mask.height / aspect**0.5
  factor = scale / max(width, height)
  new_size = max(round(width * factor), 3), max(round(height * factor), 3)
  return np.asarray(mask.resize(new_size, Image.Resampling.HAMMING), np.float32) / 255


def _paint(
  rng: np.random.Generator, pattern: str, colour: str, alpha: np.ndarray, angle: int, scale: float
) -> np.ndarray:
  """The object's colours, float32 [h, w, 3]: look, jitter, shading and perhaps an outline."""
  height, width = alpha.shape
  # Python floats keep the arithmetic on arrays in float32.
  main = np.array(_RGB[colour], np.float32) * rng.uniform(0.88, 1.1) + rng.uniform(-12, 12, 3)
  ink = np.array(_INK[colour], np.float32) + rng.uniform(-12, 12)
  x = np.arange(width, dtype=np.float32)
  y = np.arange(height, dtype=np.float32)[:, None]
  c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
  u, v = c * x - s * y, s * x + c * y
  if pattern == "solid":
    inked = np.zeros_like(alpha)
  elif pattern == "striped":
    period = max(scale * rng.uniform(0.2, 0.26), 5.0)
    distance = np.abs((v / period + rng.random()) % 1 - 0.5) * period
    inked = np.clip(distance - 0.3 * period + 0.5, 0, 1)
  else:
    period = max(scale * rng.uniform(0.2, 0.26), 5.0)
    du = ((u / period + rng.random()) % 1 - 0.5) * period
    dv = ((v / period + rng.random()) % 1 - 0.5) * period
    inked = np.clip(0.29 * period - np.hypot(du, dv) + 0.5, 0, 1)
  paint = main.astype(np.float32) + inked[..., None] * (ink - main).astype(np.float32)
  light = np.ones_like(alpha)
  if rng.random() < 0.5:
    direction = rng.uniform(0, 2 * math.pi)
    slope = math.cos(direction) * (x / width - 0.5) + math.sin(direction) * (y / height - 0.5)
    light = light + rng.uniform(0.1, 0.35) * slope
  # One pixel of outline would swallow the parts of a very small object.
  if scale > 22 and rng.random() < 0.6:
    padded = Image.fromarray((np.pad(alpha, 1) * 255).astype(np.uint8))
    inner = np.asarray(padded.filter(ImageFilter.MinFilter(3)), np.float32)[1:-1, 1:-1] / 255
    light = light * (0.45 + 0.55 * inner)
  return paint * light[..., None]


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
  """Slight blur, exposure change and sensor noise; uint8."""
  exposed = np.clip(canvas * rng.uniform(0.9, 1.08), 0, 255).astype(np.uint8)
  blurred = Image.fromarray(exposed).filter(ImageFilter.BoxBlur(rng.uniform(0, 0.4)))
  noise = rng.uniform(4, 20) * (rng.random(canvas.shape, dtype=np.float32) - 0.5)
  return np.clip(np.asarray(blurred) + noise, 0, 255).astype(np.uint8)
