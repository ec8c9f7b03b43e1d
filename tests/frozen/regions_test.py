import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rkd_jax.frozen.regions import crop_regions, resize_and_center_crop

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "clip_preprocess.npz")
# Every pixel knows where it is: red is the column, green the row.
RAMP = np.zeros((20, 30, 3), np.uint8)
RAMP[..., 0] = np.arange(30)
RAMP[..., 1] = np.arange(20)[:, None]


@pytest.mark.parametrize("case", ["odd", "tiny3x2", "one_px_wide", "thin_180x7"])
def test_clip_transform_equals_the_original(case):
  image = Image.fromarray(GOLDEN[f"{case}/input"])
  np.testing.assert_array_equal(resize_and_center_crop(image, 64), GOLDEN[f"{case}/size64"])
  at224 = np.asarray(resize_and_center_crop(image, 224))
  np.testing.assert_array_equal(at224[::3, ::3], GOLDEN[f"{case}/size224_strided"])


def test_clip_transform_makes_grey_files_rgb():
  image = Image.fromarray(GOLDEN["grey/input"])
  assert image.mode == "L"
  np.testing.assert_array_equal(resize_and_center_crop(image, 64), GOLDEN["grey/size64"])


def test_clip_crops_equal_the_original():
  """Coordinates with halves, negative, beyond the border, and a box wholly outside."""
  crops = crop_regions(GOLDEN["crop/base"], GOLDEN["crop/boxes"], 64, context=0.0, mode="clip")
  np.testing.assert_array_equal(crops, GOLDEN["crop/size64"])


def test_square_crop_contains_box_and_margin():
  # Height 8 becomes 12 with a quarter on each side; width 4 becomes 6; the square is 12 × 12.
  crop = crop_regions(RAMP, np.array([[10, 6, 14, 14]], np.float32), 12, context=0.25)[0]
  np.testing.assert_array_equal(crop[0, :, 0], np.arange(6, 18))
  np.testing.assert_array_equal(crop[:, 0, 1], np.arange(4, 16))


def test_square_crop_repeats_the_border():
  crop = crop_regions(RAMP, np.array([[24, 0, 30, 2]], np.float32), 6, context=0.0)[0]
  np.testing.assert_array_equal(crop[0, :, 0], np.arange(24, 30))
  np.testing.assert_array_equal(crop[:, 0, 1], [0, 0, 0, 1, 2, 3])


def test_no_boxes_no_crops():
  assert crop_regions(RAMP, np.zeros((0, 4), np.float32), 8).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("mode", ["square", "clip"])
@pytest.mark.parametrize(
  "bad", [[9, 3, 4, 12], [7, 7, 7, 12], [0, 0, np.nan, 4], [0, 0, np.inf, 4]]
)
def test_bad_boxes_are_named(mode, bad):
  boxes = np.array([[1, 1, 5, 5], bad], np.float32)
  with pytest.raises(ValueError, match=r"box 1 .*empty or not finite"):
    crop_regions(RAMP, boxes, 8, mode=mode)


def test_box_that_rounds_to_nothing_is_refused_by_the_clip_mode_only():
  box = np.array([[7.2, 7, 7.4, 12]], np.float32)
  assert crop_regions(RAMP, box, 8).shape == (1, 8, 8, 3)
  with pytest.raises(ValueError, match="box 0"):
    crop_regions(RAMP, box, 8, context=0.0, mode="clip")


@pytest.mark.parametrize("shape", [(1, 30_000), (30_000, 1)])
@pytest.mark.parametrize("mode", ["square", "clip"])
def test_crops_of_long_strips_take_no_memory_to_speak_of(shape, mode):
  image = np.zeros((*shape, 3), np.uint8)
  image[..., 0] = np.linspace(0, 255, max(shape), dtype=np.uint8).reshape(shape)
  tracemalloc.start()
  (crop,) = crop_regions(image, np.array([[0, 0, *shape[::-1]]]), 64, 0, mode)
  assert tracemalloc.get_traced_memory()[1] < 2**28
  tracemalloc.stop()
  # All of it from end to end, or what is in its middle.
  along = crop[..., 0].mean(axis=int(shape[0] > 1)).astype(int)
  low, high = (0, 255) if mode == "square" else (127, 127)
  assert abs(along[0] - low) < 6 and abs(along[-1] - high) < 6


def test_a_box_that_is_cut_out_of_a_reduced_image(monkeypatch):
  smooth = np.asarray(Image.fromarray(RAMP * 8).resize((240, 160), Image.Resampling.BICUBIC))
  box = np.array([[40, 24, 200, 120]], np.float32)
  whole = crop_regions(smooth, box, 32).astype(int)
  monkeypatch.setattr("rkd_jax.frozen.regions._LONGEST_SQUARE", 64)
  np.testing.assert_allclose(crop_regions(smooth, box, 32), whole, atol=8)
