"""Scenes of another data set with another vocabulary, to evaluate a detector that never saw it.

The 40 names are made of words that shapes_ovd has, in looks that it does not: its
colours come with one pattern each, these with the other.  What is drawn is drawn
otherwise, too: lying and standing pages of ruled paper, night skies and posters in place
of photographs, with 2 to 8 objects in flat shades and dark outlines.
"""

import math

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter

from rkd_jax.data.shapes_ovd import vocabulary
from rkd_jax.data.shapes_ovd.painting import (
  INK,
  Scene,
  inked_part,
  inner_part,
  place_objects,
  turned_mask,
)

SPLITS = ("tune", "validation")
# Of a lying image; one of three stands.
HEIGHT, WIDTH = 120, 160
# So that no scene has the random numbers of one of shapes_ovd.
_FIRST_STREAM = 100

PATTERNS = {"red": "dotted", "yellow": "striped", "green": "dotted", "blue": "striped"}
_ALL = [(own, colour, shape) for shape in vocabulary.SHAPES for colour, own in PATTERNS.items()]
# A stride coprime to 40 mixes shapes and looks over the class indices.
ATTRIBUTES = tuple(_ALL[17 * i % len(_ALL)] for i in range(len(_ALL)))
CLASS_NAMES = tuple(" ".join(attributes) for attributes in ATTRIBUTES)

_RGB = dict(red=(206, 48, 62), yellow=(244, 204, 74), green=(56, 158, 84), blue=(52, 96, 206))
_PAPER, _RULES, _MARGIN = (246, 241, 226), (170, 192, 216), (222, 150, 150)
# Colours of posters, from which two at a time are blended.
_POSTERS = ((250, 214, 190), (196, 220, 226), (226, 208, 236), (120, 104, 112), (96, 112, 116))


def make_scene(seed: int, split: str, index: int) -> Scene:
  """Scene number `index` of one of SPLITS (else ValueError); the same arguments, the same bytes."""
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r} of elsewhere; the splits are {', '.join(SPLITS)}")
  rng = np.random.default_rng([seed, _FIRST_STREAM + SPLITS.index(split), index])
  size = (WIDTH, HEIGHT) if rng.random() < 1 / 3 else (HEIGHT, WIDTH)
  background = (_paper, _night, _poster)[rng.integers(3)]
  canvas = background(rng, *size)
  scales = np.exp(rng.uniform(np.log(20), np.log(64), rng.integers(2, 9)))
  classes, boxes, visible, owners = place_objects(rng, canvas, scales, _draw)
  image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
  printed = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.5))))
  return Scene(printed, boxes, classes, visible, owners, captions=())


def _draw(
  rng: np.random.Generator, scale: float
) -> tuple[int, Float[np.ndarray, "h w"], Float[np.ndarray, "h w 3"]]:
  label = int(rng.integers(len(CLASS_NAMES)))
  pattern, colour, shape = ATTRIBUTES[label]
  angle = int(rng.integers(-20, 21))
  alpha = turned_mask(shape, angle, scale, rng.uniform(0.88, 1.12))
  shade = rng.uniform(-0.15, 0.2)
  main = np.array(_RGB[colour], np.float32)
  main += abs(shade) * ((255 if shade > 0 else 0) - main)
  ink = np.array(INK[colour], np.float32)
  inked = inked_part(rng, pattern, alpha.shape, angle, scale)
  paint = main + inked[..., None] * (ink - main)
  outline = 0.5 * main
  return label, alpha, outline + inner_part(alpha)[..., None] * (paint - outline)


def _blend(
  first: tuple[int, ...], second: tuple[int, ...], mix: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
  a, b = np.array(first, np.float32), np.array(second, np.float32)
  return a + mix.astype(np.float32)[..., None] * (b - a)


def _paper(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
  """Ruled paper with a margin, a little darker to one side."""
  image = Image.new("RGB", (width, height), _PAPER)
  draw = ImageDraw.Draw(image)
  pitch = int(rng.integers(7, 15))
  for y in range(int(rng.integers(pitch)), height, pitch):
    draw.line([(0, y), (width, y)], fill=_RULES)
  margin = int(rng.uniform(0.06, 0.2) * width)
  draw.line([(margin, 0), (margin, height)], fill=_MARGIN)
  light = np.linspace(1, rng.uniform(0.75, 0.95), width, dtype=np.float32)
  return np.asarray(image, np.float32) * light[:, None]


def _night(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
  """A dark sky, lighter to the horizon, with stars of one or two pixels."""
  top, horizon = ((14, 14, 34), (30, 16, 42))[rng.integers(2)], ((72, 58, 104), (96, 62, 84))
  mix = np.linspace(0, 1, height)[:, None] ** rng.uniform(1, 2) * np.ones(width)
  canvas = _blend(top, horizon[rng.integers(2)], mix)
  for y, x in rng.integers(0, (height - 1, width - 1), (rng.integers(20, 60), 2)):
    side = 1 + (rng.random() < 0.2)
    canvas[y : y + side, x : x + side] += rng.uniform(60, 170)
  return canvas


def _poster(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
  """Two colours, from one corner to another or around a spot, in steps or smoothly."""
  first, second = (_POSTERS[i] for i in rng.choice(len(_POSTERS), 2, replace=False))
  y, x = np.mgrid[0:height, 0:width] / max(height, width)
  if rng.random() < 0.5:
    angle = rng.uniform(0, 2 * math.pi)
    mix = 0.5 + math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5)
  else:
    mix = np.hypot(x - rng.uniform(0.2, 0.8), y - rng.uniform(0.2, 0.8)) * 1.3
  if rng.random() < 0.5:
    steps = rng.integers(3, 7)
    mix = np.floor(mix * steps) / steps
  return _blend(first, second, np.clip(mix, 0, 1))
