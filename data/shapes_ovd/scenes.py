"""Scenes of shapes_ovd: each a pure function of (seed, split, index).

A scene is a cluttered, textured background and a few objects that may hide one
another in part.  Detection splits are 128×128 with 3 to 6 objects; the `clip`
split is 48×48 and mostly framed on one subject, as photographs with captions
are.  Boxes bound the *visible* pixels, as annotators draw them.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from rkd_jax.data.shapes_ovd import vocabulary
from rkd_jax.data.shapes_ovd.painting import (
  Draw,
  Scene,
  noise,
  paint_object,
  photograph,
  place_objects,
  tight_box,
  turned_mask,
)

SPLITS = ("clip", "train_boxes", "train_images", "tune", "validation")
DETECTION_SIZE = 128
CLIP_SIZE = 48

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


def make_scene(seed: int, split: str, index: int) -> Scene:
  """Scene number `index` of one of SPLITS (else ValueError); the same arguments, the same bytes."""
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r} of shapes_ovd; the splits are {', '.join(SPLITS)}")
  rng = np.random.default_rng([seed, SPLITS.index(split), index])
  if split == "clip":
    return captioned(rng, _DRAW, vocabulary.CLASS_NAMES)
  return detection(rng, _DRAW, vocabulary.CLASS_NAMES, vocabulary.OTHER)


def one_of(
  attributes: Sequence[tuple[str, str, str]],
  choose: Callable[[np.random.Generator], int],
) -> Draw:
  """Draws objects by their (pattern, colour, shape), of the numbers that `choose` gives."""

  def draw(rng: np.random.Generator, scale: float):
    label = choose(rng)
    pattern, colour, shape = attributes[label]
    angle = int(rng.integers(-20, 21))
    alpha = turned_mask(shape, angle, scale, rng.uniform(0.88, 1.12))
    return label, alpha, paint_object(rng, pattern, colour, alpha, angle, scale)

  return draw


_DRAW = one_of(vocabulary.ATTRIBUTES, lambda rng: int(rng.integers(len(vocabulary.CLASS_NAMES))))


def detection(
  rng: np.random.Generator, draw: Draw, names: Sequence[str], unnamed: Sequence[str] = ()
) -> Scene:
  """Three to six objects, of which the caption names one to three that may be named."""
  canvas = _background(rng, DETECTION_SIZE)
  scales = np.exp(rng.uniform(np.log(18), np.log(60), rng.integers(3, 7)))
  classes, boxes, visible, owners = place_objects(rng, canvas, scales, draw)
  nameable = [c for c in classes if names[c] not in unnamed]
  count = min(len(nameable), rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))
  mentioned = rng.permutation(nameable)[:count].astype(int)
  caption = _caption(rng, [names[c] for c in mentioned])
  return Scene(photograph(rng, canvas), boxes, classes, visible, owners, (caption,))


def captioned(rng: np.random.Generator, draw: Draw, names: Sequence[str]) -> Scene:
  """A small photograph, of one subject or a few, with its caption."""
  return _portrait(rng, draw, names) if rng.random() < 0.85 else _group(rng, draw, names)


def _group(rng: np.random.Generator, draw: Draw, names: Sequence[str]) -> Scene:
  """A captioned photograph of two or three objects, all of them named."""
  canvas = _background(rng, CLIP_SIZE)
  scales = CLIP_SIZE * rng.uniform(0.32, 0.55, rng.integers(2, 4))
  classes, boxes, visible, owners = place_objects(rng, canvas, scales, draw)
  caption = _caption(rng, [names[c] for c in classes])
  return Scene(photograph(rng, canvas), boxes, classes, visible, owners, (caption,))


def _portrait(rng: np.random.Generator, draw: Draw, names: Sequence[str]) -> Scene:
  """A captioned photograph framed on one subject, as most on the web are.

  Whatever else the frame happens to hold goes unmentioned.  The scene is drawn at
  the scale of the detection splits and the frame is then brought to CLIP_SIZE, so
  that subjects near and far differ in sharpness as they do in photographs.
  """
  wide = 96
  canvas = _background(rng, wide)
  scales = np.exp(rng.uniform(np.log(18), np.log(60), rng.integers(1, 4)))
  classes, boxes, visible, owners = place_objects(rng, canvas, scales, draw)
  # The nearest object hides others and is hidden by none.
  subject = len(classes) - 1
  left, top, right, bottom = boxes[subject]
  side = min(max(right - left, bottom - top) * rng.uniform(1.05, 1.6), wide)
  x = np.clip(rng.uniform(right - side, left), 0, wide - side)
  y = np.clip(rng.uniform(bottom - side, top), 0, wide - side)
  frame = (x, y, x + side, y + side)
  size = (CLIP_SIZE, CLIP_SIZE)
  picture = Image.fromarray(photograph(rng, canvas))
  seen = Image.fromarray((owners == subject + 1).astype(np.uint8))
  image = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, frame))
  owner = np.asarray(seen.resize(size, Image.Resampling.NEAREST, frame))
  return Scene(
    image=image,
    boxes=np.array([tight_box(owner == 1)], np.float32),
    classes=classes[subject : subject + 1],
    visible=visible[subject : subject + 1],
    owners=owner,
    captions=(_caption(rng, [names[classes[subject]]]),),
  )


def _caption(rng: np.random.Generator, names: Sequence[str]) -> str:
  if not names:
    return _WITHOUT_NAMES
  templates = TEMPLATES[len(names)]
  return templates[rng.integers(len(templates))].format(*names)


def _muted_colour(rng: np.random.Generator) -> np.ndarray:
  grey = rng.uniform(60, 200)
  return grey + rng.uniform(-18, 18, 3)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
  """Two muted colours mixed by a gradient and noise, with low-contrast strokes: f32 [s, s, 3]."""
  x = np.arange(size, dtype=np.float32) / size - 0.5
  y = x[:, None]
  angle = rng.uniform(0, 2 * math.pi)
  blend = 0.5 + math.cos(angle) * x + math.sin(angle) * y
  blend += rng.uniform(0.1, 0.5) * noise(rng, rng.integers(3, 7), size)
  first = _muted_colour(rng)
  second = first + rng.uniform(-55, 55) + rng.uniform(-15, 15, 3)
  mix = np.clip(blend, 0, 1)[..., None]
  canvas = first.astype(np.float32) + mix * (second - first).astype(np.float32)
  texture = rng.uniform(2, 14) * noise(rng, rng.integers(size // 8, size // 3), size)
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
