"""The 80 class names of shapes_ovd and how they are split into base, novel and other.

A name is "{pattern} {colour} {shape}", e.g. "striped red star"; pattern and
colour together are called the look.  Ten shapes come in the same eight looks.
As in open-vocabulary COCO there are 80 names: 48 base, 17 novel and 15 that are
never annotated.  Whole shapes are held out, because held-out *combinations* of
known shapes and known looks would not be novel: a base-only detector composes
them.  Conversely no look is held out, so the look alone gives no name away.
"""

_PATTERNS = {"red": "striped", "yellow": "dotted", "green": "striped", "blue": "dotted"}
LOOKS = tuple((look, colour) for colour, own in _PATTERNS.items() for look in ("solid", own))

BASE_SHAPES = ("circle", "triangle", "cross", "arrow", "house", "crescent")
NOVEL_SHAPES = ("star", "heart")
OTHER_SHAPES = ("hourglass",)
# One look of this shape is novel and the other seven are never annotated: 48 + 17 + 15 = 80.
DIVIDED_SHAPE = "fish"
SHAPES = (*BASE_SHAPES, *NOVEL_SHAPES, *OTHER_SHAPES, DIVIDED_SHAPE)

_ALL = [(*look, shape) for shape in SHAPES for look in LOOKS]
# A stride coprime to 80 mixes shapes and splits over the class indices.
ATTRIBUTES = tuple(_ALL[37 * i % len(_ALL)] for i in range(len(_ALL)))
"""(pattern, colour, shape) of each class."""

CLASS_NAMES = tuple(" ".join(attributes) for attributes in ATTRIBUTES)


def _split_of(pattern: str, colour: str, shape: str) -> str:
  if shape in BASE_SHAPES:
    return "base"
  if shape in NOVEL_SHAPES or (shape == DIVIDED_SHAPE and (pattern, colour) == LOOKS[0]):
    return "novel"
  return "other"


_SPLITS = tuple(_split_of(*attributes) for attributes in ATTRIBUTES)
BASE = tuple(name for name, split in zip(CLASS_NAMES, _SPLITS) if split == "base")
NOVEL = tuple(name for name, split in zip(CLASS_NAMES, _SPLITS) if split == "novel")
OTHER = tuple(name for name, split in zip(CLASS_NAMES, _SPLITS) if split == "other")
