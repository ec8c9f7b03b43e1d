"""The 80 class names of shapes_ovd and how they are split into base, novel and other.

A name is "{pattern} {colour} {shape}", e.g. "striped red star"; pattern and
colour together are called the look.  Every shape comes in four looks.  As in
open-vocabulary COCO there are 80 names: 48 base, 17 novel and 15 that are never
annotated.  Whole shapes are held out, because held-out *combinations* of known
shapes and known looks would not be novel: a base-only detector composes them.
Conversely no look is held out, and novel shapes share their looks with base
shapes and with each other, so that the look alone does not give a name away.
"""

PATTERNS = ("solid", "striped", "dotted")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "pink")

BASE_SHAPES = (
  "circle",
  "triangle",
  "cross",
  "ring",
  "arrow",
  "crescent",
  "bolt",
  "house",
  "mug",
  "fish",
  "tree",
  "hourglass",
)
NOVEL_SHAPES = ("star", "heart", "butterfly", "key")
OTHER_SHAPES = ("square", "flower", "drop")
# One look of this shape is novel and the other three are never annotated: 48 + 17 + 15 = 80.
DIVIDED_SHAPE = "mushroom"

# The order decides which looks a shape gets (see `_looks`): shapes nine places apart have the
# same four, so each novel shape stands nine places from another novel shape.
SHAPES = (
  "circle",
  "square",
  "triangle",
  "star",
  "cross",
  "ring",
  "heart",
  "arrow",
  "crescent",
  "flower",
  "bolt",
  "mushroom",
  "butterfly",
  "house",
  "mug",
  "key",
  "fish",
  "tree",
  "drop",
  "hourglass",
)

_LOOKS = tuple((pattern, colour) for pattern in PATTERNS for colour in COLOURS)


def _looks(position: int) -> list[tuple[str, str]]:
  """The four looks of a shape: distinct colours, all three patterns, every look used evenly."""
  return [_LOOKS[5 * (4 * position + j) % len(_LOOKS)] for j in range(4)]


_BY_SHAPE = [(*look, shape) for i, shape in enumerate(SHAPES) for look in _looks(i)]
# A stride coprime to 80 mixes shapes and splits over the class indices.
ATTRIBUTES = tuple(_BY_SHAPE[21 * i % len(_BY_SHAPE)] for i in range(len(_BY_SHAPE)))
"""(pattern, colour, shape) of each class."""

CLASS_NAMES = tuple(" ".join(attributes) for attributes in ATTRIBUTES)


def _split_of(pattern: str, colour: str, shape: str) -> str:
  if shape in BASE_SHAPES:
    return "base"
  if shape in NOVEL_SHAPES:
    return "novel"
  if shape == DIVIDED_SHAPE and (pattern, colour) == _looks(SHAPES.index(shape))[0]:
    return "novel"
  return "other"


_SPLITS = tuple(_split_of(*attributes) for attributes in ATTRIBUTES)
BASE = tuple(name for name, split in zip(CLASS_NAMES, _SPLITS) if split == "base")
NOVEL = tuple(name for name, split in zip(CLASS_NAMES, _SPLITS) if split == "novel")
OTHER = tuple(name for name, split in zip(CLASS_NAMES, _SPLITS) if split == "other")
