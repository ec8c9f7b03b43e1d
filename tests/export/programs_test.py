"""What programs are made for; what they compute is tested with their formats."""

import types

import numpy as np
import pytest

from rkd_jax.export import programs
from rkd_jax.inputs.examples import BatchSpec
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings


def detector(canvas, short_side):
  spec = BatchSpec("eval", 1, canvas=canvas, short_sides=(short_side,), max_side=max(canvas))
  return types.SimpleNamespace(spec=spec)


@pytest.mark.parametrize(
  "canvas, short_side, expected",
  [
    ((1344, 1344), 800, [(832, 1344), (1344, 832)]),
    ((128, 128), 128, [(128, 128)]),
    ((800, 1344), 800, [(800, 1344), (800, 832)]),
  ],
)
def test_lying_and_standing_images_have_canvases(canvas, short_side, expected):
  assert programs.canvases(detector(canvas, short_side)) == expected


def test_as_many_words_as_the_vocabulary_needs_or_as_wanted():
  vocabulary = ClassEmbeddings(np.ones((40, 8), np.float32), None, None)
  assert programs.words(None) == 256 and programs.words(vocabulary) == 256
  assert programs.words(vocabulary._replace(embeddings=vocabulary.embeddings[:9])) == 32
  assert programs.words(vocabulary, 40) == 40
  with pytest.raises(ValueError, match=r"--max_words=39 is too few: .* has 40 words"):
    programs.words(vocabulary, 39)
