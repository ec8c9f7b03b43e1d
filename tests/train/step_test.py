"""One training step as arithmetic."""

import jax
import ml_collections
import numpy as np
import pytest

from rkd_jax.structures import Batch, Outputs, PseudoBoxes, Vocabulary
from rkd_jax.train.step import detector_loss


@pytest.mark.parametrize("own", [None, np.ones((5, 2), np.float32)])
def test_the_columns_of_an_image_step_are_its_classes(own):
  vocabulary = Vocabulary(np.ones((3, 2), np.float32), np.ones(3, bool), image_embeddings=own)
  seen = []

  class Model:
    image_step = "image_step"

    def apply(self, variables, batch, embeddings, method):
      seen.append((method, embeddings.shape))
      logits = jax.numpy.zeros((1, 1, len(embeddings) + 1))
      return Outputs(pseudo_box_logits=logits)

  batch = Batch(
    images=np.zeros((1, 8, 8, 3), np.uint8),
    sizes=np.array([[8, 8]]),
    original_sizes=np.array([[8, 8]]),
    image_ids=np.array([1]),
    valid=np.array([True]),
    pseudo_boxes=PseudoBoxes(
      boxes=np.ones((1, 1, 4), np.float32), classes=np.array([[2]]), valid=np.array([[True]])
    ),
  )
  loss = detector_loss(Model(), ml_collections.ConfigDict({"ils": {"weight": 1.0}}))
  batch = jax.tree.map(jax.numpy.asarray, batch)
  value, _ = loss({}, {}, vocabulary, batch, None, "image")
  columns = 3 if own is None else 5
  assert seen == [("image_step", (columns, 2))]
  np.testing.assert_allclose(value, (columns + 1) * np.log(2), rtol=1e-6)
