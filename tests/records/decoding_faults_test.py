"""Damaged images of ten formats are decoded or refused by name, and take no memory to speak of.

RKD_JAX_FUZZ_PART=0 to 9 says which 5,000 of the 50,000 damaged files; each has its seed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from rkd_jax.records import decoding
from tests.records import mutations

PART, COUNT, PIECES = int(os.environ.get("RKD_JAX_FUZZ_PART", "0")), 5_000, 5
pytestmark = pytest.mark.faults


@pytest.mark.parametrize("piece", range(PIECES))
def test_damaged_files_are_decoded_or_refused(piece):
  count = COUNT // PIECES
  first = PART * COUNT + piece * count
  command = "-W", "ignore", "-m", "tests.records.mutations", str(first), str(count)
  done = subprocess.run(
    [sys.executable, *command],
    cwd=Path(__file__).parents[2],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout)
  assert sum(found["counts"].values()) == count
  outcomes = {key.split()[1] for key in found["counts"]}
  assert outcomes == {"decoded", "refused"} and len(found["counts"]) > 15
  assert found["grown_mb"] < 1024 and found["slowest"][0] < 10, found


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "MPO", "AVIF"])
def test_nonsense_in_the_tags_of_a_camera_leaves_the_pixels(fmt):
  pixels = np.random.default_rng(0).integers(0, 256, (19, 25, 3), np.uint8)
  sound = np.frombuffer(mutations.exif().tobytes(), np.uint8)
  decoded = 0
  for seed in range(300):
    rng, tags = np.random.default_rng(seed), bytearray(sound)
    for _ in range(rng.integers(1, 4)):
      at, width = 6 + int(rng.integers(len(tags) - 6)), (1, 2, 4)[rng.integers(3)]
      number = int(rng.choice(mutations.EXTREMES)) & (256**width - 1)
      tags[at : at + width] = number.to_bytes(width, ("big", "little")[rng.integers(2)])
    try:
      data = mutations.encoded(Image.fromarray(pixels), fmt, exif=bytes(tags))
    except Exception:  # what cannot be written needs not be read
      continue
    decoded += 1
    assert sorted(decoding.open_image(data, "x").size) == [19, 25]
  assert decoded > 100


@pytest.mark.parametrize(
  "tag, kind, value",
  [
    (0x011A, 2, "72"),  # XResolution as text
    (0x0112, 2, "6"),  # orientation as text
    (0x0112, 4, 2**32 - 1),
    (0x8769, 4, 8),  # directories that are the picture's own, far beyond the end, or text
    (0x8825, 4, 2**31),
    (0x8825, 2, "here"),
    (0xA005, 4, 8),
    (0x8649, 2, "no Photoshop"),
    (0x02BC, 7, b"<tiff:Orientation>x</tiff:Orientation>"),
  ],
)
def test_nonsense_in_the_tags_of_a_tiff_leaves_the_pixels(tag, kind, value):
  pixels = np.random.default_rng(0).integers(0, 256, (19, 25, 3), np.uint8)
  tags = TiffImagePlugin.ImageFileDirectory_v2()
  tags[tag], tags.tagtype[tag] = value, kind
  picture = Image.fromarray(pixels)
  data = mutations.encoded(picture, "TIFF", tiffinfo=tags)
  np.testing.assert_array_equal(decoding.open_image(data, "x"), pixels)
