"""Image geometry against detectron2's numbers (tests/golden/resize.npz) and by hand."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from rkd_jax.inputs import transforms
from rkd_jax.records import decoding

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "resize.npz")
RNG = np.random.default_rng(0)


def _encode(image, fmt="PNG", **options):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, fmt, **options)
  return buffer.getvalue()


@pytest.mark.parametrize("row", GOLDEN["rz_table"].tolist())
def test_resized_size_equals_detectron2(row):
  height, width, short_side, max_side, *expected = row
  assert transforms.resized_size((height, width), short_side, max_side) == tuple(expected)


@pytest.mark.parametrize(("short_side", "max_side"), [(64, 90), (160, 333), (130, 1333)])
def test_resize_equals_detectron2(short_side, max_side):
  image, expected = GOLDEN["rz_in"], GOLDEN[f"rz_out_{short_side}_{max_side}"]
  size = transforms.resized_size(image.shape[:2], short_side, max_side)
  np.testing.assert_array_equal(transforms.resize(image, size), expected)


def test_scaled_boxes_equal_detectron2():
  boxes = np.array([[3.5, 4.25, 99.9, 80.1], [0, 0, 143, 97]])
  for short_side, max_side in [(64, 90), (160, 333)]:
    size = transforms.resized_size((97, 143), short_side, max_side)
    scaled = transforms.scale_boxes(boxes, (97, 143), size)
    expected = GOLDEN[f"rz_boxes_{short_side}_{max_side}"]
    np.testing.assert_allclose(scaled, expected, rtol=1e-12)


def test_flipped_boxes_equal_detectron2():
  flipped = transforms.flip_boxes(GOLDEN["fl_boxes_in"], 143)
  np.testing.assert_allclose(flipped, GOLDEN["fl_boxes_out"], rtol=1e-12)


def test_view_resizes_flips_and_clips_boxes_like_detectron2():
  view = transforms.View((97, 143), (64, 94), flip=True)
  boxes = view.boxes(GOLDEN["map_boxes_in"])
  assert boxes.dtype == np.float32
  np.testing.assert_allclose(boxes, GOLDEN["map_boxes_out"], rtol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_polygons_move_as_boxes_do(flip):
  """The corners of a box (detectron2's numbers), and beyond the image, where boxes are clipped."""
  view = transforms.View((97, 143), (64, 94), flip=flip)
  x1, y1, x2, y2 = GOLDEN["map_boxes_in"][0]
  corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
  beyond = np.array([[-5.0, -3], [150, 99], [0, 50]])
  moved, outside = view.polygons([corners, beyond])
  assert moved.dtype == np.float64
  expected = GOLDEN["map_boxes_out"][0] if flip else view.boxes([[x1, y1, x2, y2]])[0]
  np.testing.assert_allclose([*moved.min(0), *moved.max(0)], expected, rtol=1e-6)
  x = np.array([-5, 150, 0]) * 94 / 143
  np.testing.assert_allclose(outside[:, 0], 94 - x if flip else x, rtol=1e-12)
  np.testing.assert_allclose(outside[:, 1], np.array([-3, 99, 50]) * 64 / 97, rtol=1e-12)


def test_boxes_stay_on_the_pixels_they_were_drawn_around():
  image = np.zeros((20, 40, 3), np.uint8)
  image[4:8, 10:18] = 255
  view = transforms.View((20, 40), (40, 80), flip=True)
  x1, y1, x2, y2 = view.boxes(np.array([[10, 4, 18, 8]]))[0].astype(int)
  seen = view.image(image)
  assert seen[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 128
  seen = seen.copy()
  seen[y1:y2, x1:x2] = 0
  assert seen.max() < 128


def test_view_takes_an_image_that_is_already_resized():
  image = RNG.integers(0, 256, (30, 20, 3), np.uint8)
  view = transforms.View((30, 20), (15, 10), flip=True)
  once = transforms.resize(image, view.size)
  np.testing.assert_array_equal(view.image(once), view.image(image))


def test_a_picture_and_its_array_give_the_same_view():
  """Whatever form it comes in; mirrored is what NumPy reads backwards."""
  data = _encode(RNG.integers(0, 256, (31, 47, 3), np.uint8), "JPEG")
  picture = decoding.open_image(data, "a.jpg")
  array = np.asarray(picture)
  for size in ((31, 47), (62, 94), (13, 20)):
    plain = transforms.View((31, 47), size).image(array)
    mirrored = transforms.View((31, 47), size, flip=True)
    assert plain.shape == (*size, 3) and plain.dtype == np.uint8
    np.testing.assert_array_equal(transforms.View((31, 47), size).image(picture), plain)
    for form in (picture, array):
      np.testing.assert_array_equal(mirrored.image(form), plain[:, ::-1])


def test_boxes_may_be_none():
  assert transforms.View((30, 20), (15, 10)).boxes(np.zeros((0, 4))).shape == (0, 4)


def test_nonempty_wants_both_sides():
  boxes = np.array([[0, 0, 2, 2], [0, 0, 0, 2], [0, 0, 2, 1e-6], [3, 3, 2, 5]])
  assert transforms.nonempty(boxes).tolist() == [True, False, False, False]


def test_padding_is_at_the_bottom_and_right():
  image = np.full((2, 3, 3), 7, np.uint8)
  padded = transforms.pad_to_canvas(image, (4, 5), "a.png")
  assert (padded[:2, :3] == 7).all()
  assert padded.sum() == image.sum()


@pytest.mark.parametrize("canvas", [(1, 9), (9, 2)])
def test_image_larger_than_the_canvas_names_itself(canvas):
  with pytest.raises(ValueError, match=r"b\.png .* 2 x 3 .*canvas.*enlarge"):
    transforms.pad_to_canvas(np.zeros((2, 3, 3), np.uint8), canvas, "b.png")
