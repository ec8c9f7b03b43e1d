"""Scenes that no detector is trained on: new names of known words, all that is there annotated."""

import numpy as np
import pytest
from scene_checks import assert_boxes_are_tight, contrasts

from rkd_jax.data.shapes_ovd import elsewhere, painting, scenes, vocabulary


@pytest.fixture(scope="module")
def made():
  return [elsewhere.make_scene(0, split, i) for split in elsewhere.SPLITS for i in range(40)]


def test_a_scene_is_a_pure_function_of_seed_split_and_index():
  first, again = (elsewhere.make_scene(3, "tune", 7) for _ in range(2))
  np.testing.assert_array_equal(first.image, again.image)
  np.testing.assert_array_equal(first.boxes, again.boxes)
  for other in ((4, "tune", 7), (3, "validation", 7), (3, "tune", 8)):
    image = elsewhere.make_scene(*other).image
    assert image.shape != first.image.shape or not np.array_equal(first.image, image)


def test_unknown_split_is_named():
  with pytest.raises(ValueError, match=r"'clip' of elsewhere; the splits are tune, validation"):
    elsewhere.make_scene(0, "clip", 0)


def test_names_are_new_but_their_words_are_not():
  assert len(set(elsewhere.CLASS_NAMES)) == 40
  assert not set(elsewhere.CLASS_NAMES) & set(vocabulary.CLASS_NAMES)
  known = {word for name in vocabulary.CLASS_NAMES for word in name.split()}
  assert {word for name in elsewhere.CLASS_NAMES for word in name.split()} == known - {"solid"}


def test_no_caption_of_training_has_one_of_the_names():
  for split in ("clip", "train_images"):
    for index in range(60):
      (caption,) = scenes.make_scene(0, split, index).captions
      assert not any(name in caption for name in elsewhere.CLASS_NAMES)


def test_boxes_bound_the_visible_pixels(made):
  for scene in made:
    assert scene.captions == () and scene.visible.min() >= painting.MIN_VISIBLE
    assert_boxes_are_tight(scene)


def test_images_lie_or_stand_and_hold_two_to_eight_objects(made):
  lying = (elsewhere.HEIGHT, elsewhere.WIDTH)
  assert {scene.image.shape[:2] for scene in made} == {lying, lying[::-1]}
  assert 0.5 < np.mean([scene.image.shape[:2] == lying for scene in made]) < 0.85
  counts = [len(scene.classes) for scene in made]
  assert (min(counts), max(counts)) == (2, 8)
  assert {c for scene in made for c in scene.classes.tolist()} == set(range(40))


def test_objects_stand_out_from_the_background(made):
  assert np.quantile(contrasts(made), 0.02) > 30
