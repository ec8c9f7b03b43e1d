"""Encoded images of every kind to upright RGB, and damaged ones."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image

from rkd_jax.records import decoding

RNG = np.random.default_rng(0)


def _encode(image, fmt="PNG", **options):
  buffer = io.BytesIO()
  picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
  picture.save(buffer, fmt, **options)
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


RAMP = np.arange(0, 65536, 64, np.uint16).reshape(16, 64)
RGB = RNG.integers(0, 256, (9, 7, 3), np.uint8)


@pytest.mark.parametrize(
  "fmt, values, options",
  [
    ("PNG", RAMP, {}),
    ("TIFF", RAMP, {}),
    ("TIFF", RAMP.astype(">u2"), {}),
    ("TIFF", RAMP, {"compression": "tiff_lzw"}),
    ("JPEG2000", RAMP, {}),
    ("PPM", RAMP, {}),
    ("PPM", RAMP.astype(np.int32), {}),
  ],
)
def test_of_sixteen_bits_the_upper_eight_are_kept(fmt, values, options):
  decoded = np.asarray(decoding.open_image(_encode(values, fmt, **options), "deep"))
  np.testing.assert_array_equal(decoded, np.stack([RAMP >> 8] * 3, axis=-1))


def test_white_may_be_zero_in_a_tiff_of_sixteen_bits():
  # Pillow turns those of 8 bits around, and leaves those of 16 as they are.
  inverted = bytearray(_encode(RAMP, "TIFF"))
  place = inverted.index(struct.pack("<HH", 262, 3)) + 8
  inverted[place] = 0
  decoded = np.asarray(decoding.open_image(bytes(inverted), "deep.tif"))
  np.testing.assert_array_equal(decoded[..., 0], 255 - (RAMP >> 8))


@pytest.mark.parametrize(
  "fmt, values, message",
  [
    ("TIFF", RAMP.astype(np.float32), "floats"),
    ("PPM", RAMP.astype(np.float32), "floats"),
    ("TIFF", RAMP.astype(np.int32), "32 bits"),
  ],
)
def test_pixels_without_a_known_white_are_refused(fmt, values, message):
  with pytest.raises(decoding.BadImageError, match=rf"odd.*{message}.*8 or 16 bits"):
    decoding.open_image(_encode(values, fmt), "odd")


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK"])
def test_sound_pixels_of_eight_bits_are_those_of_pillow(fmt, mode):
  picture = Image.fromarray(RGB)
  picture = picture.quantize(16) if mode == "P" else picture.convert(mode)
  options = {"WEBP": {"lossless": True}, "PNG": {"transparency": 3} if mode == "P" else {}}
  try:
    data = _encode(picture, fmt, **options.get(fmt, {}))
  except (OSError, KeyError, ValueError):
    return  # the format has no such pixels
  with Image.open(io.BytesIO(data)) as expected:
    expected = expected.convert("RGB")
  np.testing.assert_array_equal(decoding.open_image(data, "x"), expected)


def test_the_first_picture_of_an_animation_is_taken():
  frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "green", "blue")]
  for fmt in ("GIF", "PNG", "WEBP", "TIFF"):
    data = _encode(frames[0], fmt, save_all=True, append_images=frames[1:])
    assert np.asarray(decoding.open_image(data, fmt))[2, 2].argmax() == 0


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_camera_that_writes_nonsense_does_not_cost_the_picture(orientation):
  # XResolution as text.
  tags = struct.pack("<HHIIHHI4s", 0x0112, 3, 1, orientation, 0x011A, 2, 3, b"72\0\0")
  exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + tags + bytes(4)
  data = _encode(RGB, exif=exif)
  upright = UPRIGHT[orientation](RGB)
  np.testing.assert_array_equal(decoding.open_image(data, "photo.png"), upright)


@pytest.mark.parametrize(
  "error",
  [TypeError("bad operand"), OverflowError(), MemoryError(), RecursionError("deep"), KeyError(1)],
)
def test_whatever_a_decoder_raises_names_the_file(monkeypatch, error):
  def load(self):
    raise error

  monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
  with pytest.raises(decoding.BadImageError, match=rf"a\.png.*({error}|Error)") as raised:
    decoding.open_image(_encode(RGB), "a.png")
  assert raised.value.__cause__ is error


@pytest.mark.parametrize(
  "fmt, limit", [("PNG", 63), ("WEBP", 126), ("AVIF", 126), ("JPEG2000", 189)]
)
def test_a_large_image_is_refused_before_it_is_decoded(monkeypatch, fmt, limit):
  data = _encode(RGB, fmt)
  assert decoding.open_image(data, "x", max_pixels=limit).size == (7, 9)
  monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
  with pytest.raises(decoding.BadImageError, match=r"big.*7 x 9.*raise --max_pixels.*--skip_bad"):
    decoding.open_image(data, "big", max_pixels=limit - 1)


def test_the_limit_may_be_above_that_of_pillow(monkeypatch):
  data = _encode(np.zeros((100, 100), np.uint8))
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  with pytest.raises(decoding.BadImageError, match="raise --max_pixels"):
    decoding.open_image(data, "x", max_pixels=100)
  assert decoding.open_image(data, "x", max_pixels=10_000).size == (100, 100)


def test_a_jpeg_of_very_many_scans_is_refused():
  data = _encode(np.zeros((2000, 3000), np.uint8), "JPEG", progressive=True)
  first = data.index(b"\xff\xda")
  scan = data[first : data.index(b"\xff\xda", first + 1)]
  with pytest.raises(decoding.BadImageError, match=r"x.*scans of 3000 x 2000"):
    decoding.open_image(data[:first] + scan * 1000 + data[first:], "x")
  assert decoding.open_image(data, "x").size == (3000, 2000)


def test_a_recorded_size_is_compared_before_anything_is_decoded(monkeypatch):
  exif = Image.Exif()
  exif[0x0112] = 6
  data = _encode(RGB, exif=exif)
  assert decoding.open_image(data, "x", max_pixels=1, recorded=(9, 7)).size == (9, 7)
  with pytest.raises(decoding.BadImageError, match="recorded as 7×9"):
    decoding.open_image(data, "x", recorded=(7, 9))
  monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
  with pytest.raises(decoding.BadImageError, match="recorded as 7×8"):
    decoding.open_image(data, "x", recorded=(7, 8))


@pytest.mark.parametrize(
  "data, reason",
  [
    (b"", "the file is empty"),
    (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
    (b"\n<svg/>", "SVG"),
    (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    (b"BLP2" + bytes(200), "no known format"),
  ],
)
def test_what_is_no_image_is_told(data, reason, tmp_path):
  (tmp_path / "a.jpg").write_bytes(data)
  for opened in (
    lambda: decoding.open_image(data, "a.jpg"),
    lambda: decoding.open_file(tmp_path / "a.jpg"),
  ):
    with pytest.raises(decoding.BadImageError, match=rf"a\.jpg.*{reason}"):
      opened()


def test_pixels_of_a_large_picture(monkeypatch):
  monkeypatch.setattr(decoding, "_STRIP", 20)  # 2 rows
  np.testing.assert_array_equal(decoding.pixels(Image.fromarray(RGB)), RGB)


def test_files_that_cannot_be_read(tmp_path):
  (tmp_path / "a.png").write_bytes(_encode(RGB))
  np.testing.assert_array_equal(decoding.open_file(tmp_path / "a.png"), RGB)
  (tmp_path / "loop.png").symlink_to("loop.png")
  os.mkfifo(tmp_path / "pipe.png")
  for name in ("loop.png", "pipe.png", "missing.png", "."):
    with pytest.raises(decoding.BadImageError, match=r"Cannot read .*--skip_bad_images"):
      decoding.open_file(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_file_is_that_of_the_upright_picture(tmp_path, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  (tmp_path / "a.jpg").write_bytes(_encode(np.zeros((6, 9, 3), np.uint8), "JPEG", exif=exif))
  size = decoding.upright_size(tmp_path / "a.jpg")
  assert size == decoding.open_file(tmp_path / "a.jpg").size


def test_sizes_are_read_from_the_head_alone_and_only_of_what_may_be_decoded(tmp_path):
  path = tmp_path / "a.jpg"
  path.write_bytes(_encode(RNG.integers(0, 256, (60, 90, 3), np.uint8), "JPEG")[:-1000])
  assert decoding.upright_size(path) == (90, 60)
  with pytest.raises(decoding.BadImageError, match="is too large"):
    decoding.upright_size(path, max_pixels=100)
  path.write_text("<svg>")
  with pytest.raises(decoding.BadImageError, match=r"Cannot decode .*a\.jpg .*text in HTML"):
    decoding.upright_size(path)
