"""Pictures: where boxes and labels land, colours."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor
from pycocotools import mask as coco_mask

from rkd_jax.pictures import draw as visualize
from rkd_jax.pictures.colours import class_colour, instance_colours

GREY = np.full((128, 160, 3), 90, np.uint8)
ONE_BOX = np.array([[40, 50, 80, 100]], np.float32)


def colour_mask(picture, colour):
  return (picture == np.array(ImageColor.getrgb(colour), np.uint8)).all(axis=-1)


def draw_one(box=ONE_BOX, name="red star", novel=True, **options):
  options = {"colour_by": "novelty"} | options
  return visualize.draw_detections(GREY, box, np.array([0.9]), [name], [novel], **options)


def test_small_pictures_grow_by_a_whole_factor():
  assert draw_one().shape == (384, 480, 3)
  for min_side, shape in ((100, GREY.shape), (129, (256, 320, 3))):
    assert visualize.draw_boxes(GREY, ONE_BOX, ["a"], ["#000000"], min_side).shape == shape


def test_box_is_drawn_at_its_scaled_corners_in_the_colour_of_its_kind():
  for novel, colour, other in (
    (True, visualize.NOVEL_COLOUR, visualize.BASE_COLOUR),
    (False, visualize.BASE_COLOUR, visualize.NOVEL_COLOUR),
  ):
    picture = draw_one(novel=novel)
    painted = colour_mask(picture, colour)
    assert painted[150:301, 120].all() and painted[300, 120:241].all()
    assert not painted[170:290, 130:230].any()
    assert draw_one(novel=novel, colour_by="class").tobytes() != picture.tobytes()
    assert not colour_mask(picture, other).any()


def test_drawing_is_deterministic_and_leaves_its_input_alone():
  before = GREY.copy()
  np.testing.assert_array_equal(draw_one(), draw_one())
  np.testing.assert_array_equal(GREY, before)


@pytest.mark.parametrize("box", [[0, 0, 5, 5], [150, 120, 160, 128], [0, 120, 4, 128]])
@pytest.mark.parametrize("name", ["owl", "a very long class name " * 6])
def test_labels_stay_inside_the_picture(box, name):
  place = []
  original = visualize._place_label

  def remember(*args):
    place.append(original(*args))
    return place[-1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(visualize, "_place_label", remember)
    draw_one(box=np.array([box], np.float32), name=name)
  ((x1, y1, x2, y2),) = place
  assert 0 <= x1 < x2 < 480 and 0 <= y1 < y2 < 384


def test_a_label_moves_where_another_one_lies():
  box, size, canvas = np.array([100.0, 100, 200, 200]), (60, 20), (400, 400)
  first = visualize._place_label(box, size, canvas, [])
  second = visualize._place_label(box, size, canvas, [first])
  assert first == (100, 80, 160, 100)
  assert second == (100, 200, 160, 220)


def run_lengths(mask):
  return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_a_mask_is_a_translucent_area_with_an_edge():
  """A rectangle within the box; at twice the size its edge is a pixel wide."""
  mask = np.zeros(GREY.shape[:2], bool)
  mask[60:90, 50:70] = True
  colour, masks = [visualize.NOVEL_COLOUR], [run_lengths(mask)]
  picture = visualize.draw_boxes(GREY, ONE_BOX, ["star"], colour, 129, masks)
  edge = colour_mask(picture, visualize.NOVEL_COLOUR)
  assert edge[120:180, 100].all() and edge[179, 100:140].all()
  assert not edge[121:179, 101:139].any()
  blend = (0.6 * 90 + 0.4 * np.array(ImageColor.getrgb(visualize.NOVEL_COLOUR))).astype(np.uint8)
  assert (picture[121:179, 101:139] == blend).all()
  assert (picture[182:198, 90:150] == 90).all()  # in the box, but not in the mask


def test_masks_are_drawn_best_on_top():
  mask = run_lengths(np.ones(GREY.shape[:2], bool))
  empty = run_lengths(np.zeros(GREY.shape[:2], bool))
  boxes = np.array([[1, 60, 20, 80], [30, 60, 60, 80]], np.float32)

  def corner(scores, segmentations):
    names, novel = ["a", "b"], [False, True]
    picture = visualize.draw_detections(
      GREY, boxes, np.array(scores), names, novel, segmentations, colour_by="novelty"
    )
    return tuple(picture[0, 0].tolist())

  base, novel = (ImageColor.getrgb(c) for c in (visualize.BASE_COLOUR, visualize.NOVEL_COLOUR))
  assert corner([0.9, 0.5], [mask, mask]) == base
  assert corner([0.5, 0.9], [mask, mask]) == novel
  assert corner([0.9, 0.5], [empty, mask]) == novel
  assert corner([0.5, 0.9], [empty, empty]) == (90, 90, 90)


def test_a_class_has_its_colour_in_any_list_and_any_picture():
  boxes = np.array([[10, 60, 50, 80], [90, 60, 130, 80]], np.float32)

  def picture(names, colour_by="class"):
    return visualize.draw_detections(
      GREY, boxes, np.array([0.9, 0.8]), names, [False, True], colour_by=colour_by
    )

  owl, cat = (class_colour(name) for name in ("owl", "cat"))
  assert colour_mask(picture(["owl", "cat"]), owl)[:, :240].any()
  assert colour_mask(picture(["cat", "owl"]), owl)[:, 240:].any()
  assert colour_mask(picture(["cat", "owl"]), cat)[:, :240].any()
  # Two of a class are told apart by instance.
  of_instances = picture(["owl", "owl"], "instance")
  assert len(instance_colours(2)) == len(set(instance_colours(2)))
  assert all(colour_mask(of_instances, colour).any() for colour in instance_colours(2))
  assert not colour_mask(of_instances, owl).any()


def test_novel_classes_have_a_mark_in_any_colouring():
  for colour_by in visualize.COLOURINGS:
    base, novel = (draw_one(novel=flag, colour_by=colour_by) for flag in (False, True))
    assert (base != novel).any()


def test_what_is_below_a_label_shows_through():
  image = GREY.copy()
  image[:60:2] = 200
  picture = visualize.draw_boxes(image, ONE_BOX, ["mmmm"], ["#d9480f"])
  (x, y), colour = (121, 144), np.array(ImageColor.getrgb("#d9480f"))
  column = picture[y - 12 : y, x].astype(int)  # of the label's edge, left of the text
  assert (np.ptp(column, axis=0) > 5).any() and np.abs(column - colour).max() < 60


def test_a_dashed_box_has_gaps():
  picture = visualize.draw_boxes(GREY, ONE_BOX, [""], ["#2b8a3e"], dashed=[True])
  side = colour_mask(picture, "#2b8a3e")[150:301, 120]
  assert 0.3 < side.mean() < 0.8
  solid = visualize.draw_boxes(GREY, ONE_BOX, [""], ["#2b8a3e"])
  assert colour_mask(solid, "#2b8a3e")[150:301, 120].all()


def test_the_legend_says_each_class_once_below_the_picture():
  boxes = np.tile(ONE_BOX, (3, 1))
  arguments = GREY, boxes, np.array([0.9, 0.8, 0.7]), ["owl", "cat", "owl"], [False, True, False]
  plain, picture = (visualize.draw_detections(*arguments, legend=own) for own in (False, True))
  np.testing.assert_array_equal(picture[: len(plain)], plain)
  strip = picture[len(plain) :]
  assert all(colour_mask(strip, class_colour(name)).any() for name in ("owl", "cat"))
  many = visualize.with_legend(plain, [(f"class {i}", "#2b8a3e") for i in range(20)])
  assert len(many) - len(plain) > 2 * len(strip)


def test_no_boxes_is_only_the_picture():
  picture = visualize.draw_boxes(GREY, np.zeros((0, 4)), [], [])
  assert (picture == 90).all()


def test_boxes_have_colours_of_their_own():
  boxes = np.array([[10, 60, 50, 80], [90, 60, 130, 80]], np.float32)
  colours = visualize.novel_colours([False, True])
  picture = visualize.draw_boxes(GREY, boxes, ["cat", "owl"], colours)
  assert colour_mask(picture, visualize.BASE_COLOUR)[:, :240].any()
  assert colour_mask(picture, visualize.NOVEL_COLOUR)[:, 240:].any()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"image": GREY.astype(np.float32)}, "expected .* uint8"),
    ({"image": GREY[..., 0]}, "expected .height, width, 3."),
    ({"boxes": np.array([[0, 0, np.nan, 1]])}, "boxes .* not all finite"),
    ({"scores": np.array([np.nan])}, "scores .* not all finite"),
    ({"scores": np.array([0.1, 0.2])}, "1 boxes, 2 scores, 1 names"),
    ({"novel": []}, "1 names, 0 novel"),
    ({"segmentations": []}, "1 novel, 0 masks"),
    ({"colour_by": "size"}, "colour_by is 'size'; expected one of class, instance, novelty"),
    (
      {"segmentations": [{"size": [160, 128]}]},
      r"a mask is \(160, 128\) and the image \(128, 160\)",
    ),
  ],
)
def test_bad_input_is_refused(change, message):
  arguments = {
    "image": GREY,
    "boxes": ONE_BOX,
    "scores": np.array([0.5]),
    "names": ["cat"],
    "novel": [True],
  }
  with pytest.raises(ValueError, match=message):
    visualize.draw_detections(**{**arguments, **change})


def test_png_round_trip():
  image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
  with Image.open(io.BytesIO(visualize.png_bytes(image))) as read:
    np.testing.assert_array_equal(np.asarray(read), image)


@pytest.mark.parametrize(
  "shape, drawn",
  [
    ((2, 4000), (2, 4000)),
    ((20, 1000), (80, 4000)),
    ((1, 1), (384, 384)),
    ((100, 5000), (100, 5000)),
  ],
)
def test_thin_pictures_grow_up_to_a_length(shape, drawn):
  image, boxes = np.full((*shape, 3), 90, np.uint8), np.array([[0, 0, *shape[::-1]]], np.float32)
  picture = visualize.draw_boxes(image, boxes, ["red star"], ["#000000"])
  assert picture.shape == (*drawn, 3)
  # A label that is higher than the picture would hide all of it.
  assert (picture == 255).any() == (drawn[0] > 30)


def test_large_images_are_reduced_for_drawing(monkeypatch):
  image = Image.fromarray(
    np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
  )
  np.testing.assert_array_equal(visualize.fitted(image), np.asarray(image))
  monkeypatch.setattr(visualize, "_LONGEST_SIDE", 30)
  assert visualize.fitted(image).shape == (20, 30, 3)
  monkeypatch.setattr(visualize, "_MOST_PIXELS", 96)
  assert visualize.fitted(image).shape == (8, 12, 3)
  assert visualize.fitted(image.resize((3000, 1))).shape == (1, 30, 3)
