"""Region growing: finds plain, patterned and occluded objects from the image alone."""

import numpy as np
import pytest

from rkd_jax.data.shapes_ovd.scenes import make_scene
from rkd_jax.ops.host import iou
from rkd_jax.teachers.region_growing import RegionGrowing

GREY, RED, BLUE, BLACK = (120, 118, 122), (214, 34, 34), (38, 74, 216), (20, 20, 20)


def _image(*rectangles, size=(96, 128), seed=0):
  """Noisy grey with coloured rectangles ((x0, y0, x1, y1), colour), the last on top."""
  image = np.full((*size, 3), GREY, np.float64)
  for (x0, y0, x1, y1), colour in rectangles:
    image[y0:y1, x0:x1] = colour
  noise = np.random.default_rng(seed).normal(0, 4, image.shape)
  return np.clip(image + noise, 0, 255).astype(np.uint8)


def _best_overlap(image, box, top):
  boxes, _ = RegionGrowing().propose(image)
  return iou(np.array([box], np.float32), boxes[:top]).max(initial=0)


def test_a_single_object_is_the_first_proposal():
  assert _best_overlap(_image(((30, 20, 62, 60), RED)), (30, 20, 62, 60), top=1) > 0.9


def test_two_touching_objects_of_different_hue_are_both_found():
  image = _image(((20, 30, 50, 60), RED), ((50, 30, 80, 60), BLUE))
  assert _best_overlap(image, (20, 30, 50, 60), top=3) > 0.85
  assert _best_overlap(image, (50, 30, 80, 60), top=3) > 0.85


def test_stripes_of_a_second_colour_do_not_break_an_object_up():
  stripes = [((30, y, 70, y + 4), BLACK) for y in range(24, 60, 8)]
  image = _image(((30, 20, 70, 64), RED), *stripes)
  assert _best_overlap(image, (30, 20, 70, 64), top=1) > 0.85


def test_a_colourless_object_stands_out_from_the_background():
  image = _image(((30, 20, 60, 50), (245, 245, 245)))
  assert _best_overlap(image, (30, 20, 60, 50), top=1) > 0.9


def test_noise_alone_gives_no_proposal():
  boxes, scores = RegionGrowing().propose(_image())
  assert boxes.shape == (0, 4)
  assert scores.shape == (0,)


def test_proposals_are_sorted_separate_and_inside_the_image():
  proposer = RegionGrowing(top=12)
  for i in range(8):
    boxes, scores = proposer.propose(make_scene(0, "train_boxes", i).image)
    assert 0 < len(boxes) <= 12
    assert boxes.dtype == scores.dtype == np.float32
    assert np.all(np.diff(scores) <= 0)
    assert np.all((scores >= 0) & (scores <= 1))
    assert np.all((boxes >= 0) & (boxes <= 128))
    assert np.all(boxes[:, 2:] > boxes[:, :2])
    overlaps = iou(boxes, boxes)
    assert np.all(overlaps[~np.eye(len(boxes), dtype=bool)] <= proposer.nms_threshold)


def test_an_image_is_treated_alike_in_every_orientation():
  for i in range(3):
    image = make_scene(0, "train_boxes", i).image
    boxes, _ = RegionGrowing().propose(image)
    mirrored, _ = RegionGrowing().propose(image[:, ::-1])
    back = np.stack([128 - mirrored[:, 2], mirrored[:, 1], 128 - mirrored[:, 0], mirrored[:, 3]], 1)
    # Equal scores may change places, so the sets of boxes are compared.
    agreement = iou(boxes, back).max(1)
    assert np.mean(agreement > 0.9) > 0.8


@pytest.mark.parametrize("size", [(3, 5), (17, 300), (300, 17), (200, 240)])
def test_sizes_far_from_the_usual_one_work(size):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
  boxes, _ = RegionGrowing().propose(image)
  assert np.all(boxes <= np.array([size[1], size[0]] * 2))


def test_settings_do_not_depend_on_the_resolution():
  image = _image(((30, 20, 62, 60), RED)).repeat(3, 0).repeat(3, 1)
  assert _best_overlap(image, (90, 60, 186, 180), top=1) > 0.9


def test_recall_on_embedded_scenes():
  scenes = [make_scene(0, "tune", i) for i in range(40)]
  overlaps = [iou(scene.boxes, RegionGrowing().propose(scene.image)[0]) for scene in scenes]
  for top, least in ((5, 0.75), (None, 0.9)):
    found = [(overlap[:, :top] >= 0.5).any(1) for overlap in overlaps]
    assert np.concatenate(found).mean() >= least


def test_iou_by_hand():
  boxes = np.array([[0, 0, 4, 4], [5, 5, 5, 9]], np.float32)
  others = np.array([[2, 0, 6, 4], [0, 0, 4, 4], [5, 5, 5, 9]], np.float32)
  np.testing.assert_allclose(iou(boxes, others), [[8 / 24, 1, 0], [0, 0, 0]])


def test_large_images_are_looked_at_reduced():
  rng = np.random.default_rng(0)
  image = np.full((121, 163, 3), 120, np.uint8) + rng.integers(0, 4, (121, 163, 3), np.uint8)
  image[30:80, 40:100] = 200, 30, 30
  whole, _ = RegionGrowing().propose(image)
  boxes, scores = RegionGrowing(most_pixels=6000).propose(image)
  assert boxes.dtype == scores.dtype == np.float32 and (boxes <= [163, 121, 163, 121]).all()
  np.testing.assert_allclose(boxes[0], whole[0], atol=4)
  np.testing.assert_allclose(whole[0], [40, 30, 100, 80], atol=4)
