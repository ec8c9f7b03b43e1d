"""Crops of image regions, as CLIP takes them; NumPy only.

Their embeddings are I(r̃) of the region-based distillation (arXiv 2207.03482, section 3.2).
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

# Thin images and large boxes would take any amount of memory.  Pixels: the longest side that the
# resize before the central crop makes, and that of the squares cut out of an image at its own size.
_LONGEST_RESIZED, _LONGEST_SQUARE = 2**18, 2**13


def reduced(image: UInt8[np.ndarray, "h w 3"], side: float) -> tuple[np.ndarray, int]:
  """The image reduced by the whole factor that brings `side` to 8,192 pixels or less, and that."""
  factor = math.ceil(side / _LONGEST_SQUARE)
  if factor <= 1:
    return image, 1
  return np.asarray(Image.fromarray(image).reduce(factor)), factor


def resize_and_center_crop(image: Image.Image, size: int) -> Image.Image:
  """Bicubic resize of the shorter side to `size`, then the central `size` square, then RGB.

  Rounds as CLIP's own transform does: the longer side down, the crop's offset half to even.
  """
  width, height = image.size
  short = min(width, height)
  if size * max(width, height) // short > _LONGEST_RESIZED:  # only the middle is seen
    half_width, half_height = (min(side, 4 * short) / 2 for side in image.size)
    left, top = int(width / 2 - half_width), int(height / 2 - half_height)
    image = image.crop((left, top, int(width / 2 + half_width), int(height / 2 + half_height)))
    width, height = image.size
  width, height = size * width // short, size * height // short
  if (width, height) != image.size:
    image = image.resize((width, height), Image.Resampling.BICUBIC)
  left, top = round((width - size) / 2), round((height - size) / 2)
  return image.crop((left, top, left + size, top + size)).convert("RGB")


def _square(
  box: Float[np.ndarray, "4"], image: UInt8[np.ndarray, "h w 3"], size: int
) -> Image.Image:
  image, factor = reduced(image, max(box[2] - box[0], box[3] - box[1]))
  left, top, right, bottom = box / factor
  side = max(1, round(max(right - left, bottom - top)))
  left, top = round((left + right - side) / 2), round((top + bottom - side) / 2)
  # Indices beyond the border repeat the border.
  rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
  columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
  crop = Image.fromarray(image[rows[:, None], columns])
  return crop.resize((size, size), Image.Resampling.BICUBIC)


def crop_regions(
  image: UInt8[np.ndarray, "h w 3"],
  boxes: Float[np.ndarray, "k 4"],
  size: int,
  context: float = 0.12,
  mode: Literal["square", "clip"] = "square",
) -> UInt8[np.ndarray, "k size size 3"]:
  """Cuts boxes out of an image and brings them to one size.

  Args:
    image: RGB.
    boxes: XYXY in pixels of the image; may reach over its border.
    size: side of the crops.
    context: every side of a box first moves outwards by this fraction of its width or height.
    mode: "square" takes the square around the box with the box's longer side, repeating the border
      pixels outside the image, so that the whole object stays visible undistorted.  "clip" with
      `context=0` is what the published RKD code did: the box rounded half to even, black outside
      the image, then CLIP's own transform, of which a thin box keeps only the middle.

  Raises:
    ValueError: a box is not finite, or empty (for "clip", also after rounding); its index is
      named.  The reference instead drops the image's remaining boxes without a word.
  """
  if mode not in ("square", "clip"):
    raise ValueError(f"mode is {mode!r}; use 'square' or 'clip'")
  boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
  margin = context * (boxes[:, 2:] - boxes[:, :2])
  enlarged = np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
  crops = np.empty((len(boxes), size, size, 3), np.uint8)
  for i, box in enumerate(enlarged):
    checked = np.round(box) if mode == "clip" else box
    if not np.isfinite(box).all() or (checked[2:] <= checked[:2]).any():
      raise ValueError(f"box {i} {boxes[i].tolist()} is empty or not finite; filter such boxes out")
    if mode == "square":
      crop = _square(box, image, size)
    else:
      crop = resize_and_center_crop(Image.fromarray(image).crop(tuple(box.tolist())), size)
    crops[i] = np.asarray(crop)
  return crops
