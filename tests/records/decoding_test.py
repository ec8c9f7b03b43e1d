"""Encoded images of every kind to upright RGB, and damaged ones."""

import io

import numpy as np
import pytest
from PIL import Image

from rkd_jax.records import decoding

RNG = np.random.default_rng(0)


def _encode(image, fmt="PNG", **options):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, fmt, **options)
  return buffer.getvalue()


def test_decoding_gives_rgb_of_gray_and_transparent_files():
  gray = RNG.integers(0, 256, (4, 5), np.uint8)
  rgba = RNG.integers(0, 256, (4, 5, 4), np.uint8)
  decoded = np.asarray(decoding.open_image(_encode(gray), "gray.png"))
  np.testing.assert_array_equal(decoded, np.stack([gray] * 3, axis=-1))
  np.testing.assert_array_equal(decoding.open_image(_encode(rgba), "x.png"), rgba[..., :3])


# What a viewer does to an image of each EXIF orientation, as detectron2's `read_image` does.
UPRIGHT = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.transpose(1, 0, 2),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
  8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_decoding_turns_the_image_upright(orientation):
  image = RNG.integers(0, 256, (4, 6, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  upright = np.asarray(decoding.open_image(_encode(image, exif=exif), "photo.png"))
  np.testing.assert_array_equal(upright, UPRIGHT[orientation](image))


@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_name_themselves(fmt, keep):
  data = _encode(RNG.integers(0, 256, (40, 40, 3), np.uint8), fmt)
  with pytest.raises(decoding.BadImageError, match=r"cut\.img \(id 3\).*--skip_bad_images") as e:
    decoding.open_image(data[: int(len(data) * keep)], "cut.img (id 3)")
  assert " at 0x" not in str(e.value)
