import numpy as np
import pytest
from scene_checks import assert_boxes_are_tight, contrasts

from rkd_jax.data.shapes_ovd import painting, scenes, vocabulary

DETECTION_SPLITS = ("train_boxes", "train_images", "tune", "validation")


@pytest.fixture(scope="module")
def detection_scenes():
  return [scenes.make_scene(0, split, i) for split in DETECTION_SPLITS for i in range(30)]


@pytest.fixture(scope="module")
def clip_scenes():
  return [scenes.make_scene(0, "clip", i) for i in range(400)]


def test_a_scene_is_a_pure_function_of_seed_split_and_index():
  first = scenes.make_scene(3, "tune", 7)
  again = scenes.make_scene(3, "tune", 7)
  np.testing.assert_array_equal(first.image, again.image)
  np.testing.assert_array_equal(first.boxes, again.boxes)
  assert first.captions == again.captions
  for other in ((4, "tune", 7), (3, "validation", 7), (3, "tune", 8)):
    assert not np.array_equal(first.image, scenes.make_scene(*other).image)


def test_unknown_split_is_named():
  with pytest.raises(ValueError, match=r"'test'.*train_boxes"):
    scenes.make_scene(0, "test", 0)


def test_image_sizes(detection_scenes, clip_scenes):
  assert {scene.image.shape for scene in detection_scenes} == {(128, 128, 3)}
  assert {scene.image.shape for scene in clip_scenes} == {(48, 48, 3)}
  assert detection_scenes[0].image.dtype == np.uint8


def test_boxes_are_tight_around_the_visible_pixels(detection_scenes):
  for scene in detection_scenes:
    assert_boxes_are_tight(scene)


def test_objects_stay_recognisable_though_some_are_hidden_in_part(detection_scenes):
  visible = np.concatenate([scene.visible for scene in detection_scenes])
  assert visible.min() >= painting.MIN_VISIBLE
  assert visible.max() <= 1
  assert 0.1 < np.mean(visible < 0.95) < 0.5


def test_objects_stand_out_from_the_background(detection_scenes):
  assert np.quantile(contrasts(detection_scenes), 0.02) > 30


def test_scenes_hold_three_to_six_objects_of_varied_size(detection_scenes):
  counts = [len(scene.classes) for scene in detection_scenes]
  assert max(counts) == 6
  assert np.mean(counts) > 4
  boxes = np.concatenate([scene.boxes for scene in detection_scenes])
  sides = (boxes[:, 2:] - boxes[:, :2]).max(-1)
  assert sides.max() <= 61
  assert np.quantile(sides, 0.9) > 2 * np.quantile(sides, 0.1)


def test_detection_captions_name_one_to_three_objects_in_view_but_never_the_others(
  detection_scenes,
):
  for scene in detection_scenes:
    (caption,) = scene.captions
    named = [name for name in vocabulary.CLASS_NAMES if name in caption]
    assert not set(named) & set(vocabulary.OTHER)
    assert set(named) <= {vocabulary.CLASS_NAMES[c] for c in scene.classes}
    assert len(named) <= 3


def test_most_clip_scenes_are_framed_on_one_subject(clip_scenes):
  single = [scene for scene in clip_scenes if len(scene.classes) == 1]
  assert 0.78 < len(single) / len(clip_scenes) < 0.92
  for scene in single:
    assert (scene.boxes[0, 2:] - scene.boxes[0, :2]).max() >= 0.4 * 48


def test_clip_captions_name_the_subjects_of_all_80_classes(clip_scenes):
  classes = set()
  for scene in clip_scenes:
    classes.update(scene.classes.tolist())
    for c in scene.classes:
      assert vocabulary.CLASS_NAMES[c] in scene.captions[0]
  assert classes == set(range(80))
