"""CLIP's choice among proposals, by hand."""

import numpy as np
import pytest

from rkd_jax.teachers.images import Options, choose_pseudo_boxes


def test_a_region_like_every_class_loses_to_one_like_the_label_alone():
  classes = np.eye(2)
  embeddings = np.array([[0.7, 0.7], [0.65, 0.0]])
  arguments = (embeddings, np.ones(2), np.array([0]), classes)
  chosen, labels, scores = choose_pseudo_boxes(*arguments, Options(logit_scale=2.0))
  assert (chosen.tolist(), labels.tolist()) == ([1], [0])
  np.testing.assert_allclose(scores, np.exp(2) / (np.exp(2) + 1), rtol=1e-6)


def test_objectness_decides_between_equals_and_the_threshold_drops():
  embeddings = np.array([[1.0, 0.0], [1.0, 0.0]])
  arguments = (embeddings, np.array([0.25, 0.81]), np.array([0, 1]), np.eye(2))
  chosen, labels, scores = choose_pseudo_boxes(*arguments, Options())
  assert (chosen.tolist(), labels.tolist()) == ([1, 1], [0, 1])
  np.testing.assert_allclose(scores[0], 0.9, rtol=1e-6)
  chosen, labels, _ = choose_pseudo_boxes(*arguments, Options(pseudo_box_threshold=0.5))
  assert (chosen.tolist(), labels.tolist()) == ([1], [0])


@pytest.mark.parametrize("wrong", [{"regions": 0}, {"crop_mode": "tight"}])
def test_wrong_options_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    Options(**wrong)
