"""Scenes of 400 concepts that are chosen without knowing which classes are novel.

In the strict setting the novel vocabulary is unknown in training, and image-level supervision has
the images of a random part of a large vocabulary, five times as many classes.  Here these are 50
shapes in the eight looks of shapes_ovd: 43 that it does not have, and of its own all that no novel
class has.
"""

import numpy as np

from rkd_jax.data.shapes_ovd import distractors, scenes, vocabulary
from rkd_jax.data.shapes_ovd.painting import Scene

SPLITS = ("clip", "train_images", "tune")
# So that no scene has the random numbers of one of another data set.
_FIRST_STREAM = 200

_KNOWN = (*vocabulary.BASE_SHAPES, *vocabulary.OTHER_SHAPES)
SHAPES = (*distractors.SILHOUETTES, *_KNOWN)
_ALL = [(*look, shape) for shape in SHAPES for look in vocabulary.LOOKS]
# A stride coprime to 400 mixes shapes and looks over the class indices.
ATTRIBUTES = tuple(_ALL[147 * i % len(_ALL)] for i in range(len(_ALL)))
CLASS_NAMES = tuple(" ".join(attributes) for attributes in ATTRIBUTES)

# Captions for a CLIP name the classes of shapes_ovd, too; these come after the concepts.
_SHOWN = (*ATTRIBUTES, *(own for own in vocabulary.ATTRIBUTES if own not in set(ATTRIBUTES)))
_SHOWN_NAMES = tuple(" ".join(attributes) for attributes in _SHOWN)
_NUMBERS = tuple(_SHOWN.index(own) for own in vocabulary.ATTRIBUTES)


def _any_shown(rng: np.random.Generator) -> int:
  """One of the 80 classes half of the time, and else a concept."""
  if rng.random() < 0.5:
    return _NUMBERS[rng.integers(len(_NUMBERS))]
  return int(rng.integers(len(ATTRIBUTES)))


_DRAW_SHOWN = scenes.one_of(_SHOWN, _any_shown)
_DRAW = scenes.one_of(ATTRIBUTES, lambda rng: int(rng.integers(len(ATTRIBUTES))))


def make_scene(seed: int, split: str, index: int) -> Scene:
  """Scene number `index` of one of SPLITS (else ValueError); the same arguments, the same bytes.

  Classes of `clip` from 400 on are those of shapes_ovd that are no concepts.
  """
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r} of concepts; the splits are {', '.join(SPLITS)}")
  rng = np.random.default_rng([seed, _FIRST_STREAM + SPLITS.index(split), index])
  if split == "clip":
    return scenes.captioned(rng, _DRAW_SHOWN, _SHOWN_NAMES)
  return scenes.detection(rng, _DRAW, CLASS_NAMES)
