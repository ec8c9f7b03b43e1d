"""The geometry of the input pipeline (NumPy and PIL, uint8 images).

All boxes of a picture go through one `View`, so they can never be transformed differently from its
pixels.  Sizes are (height, width).  The arithmetic is that of detectron2's ResizeShortestEdge and
RandomFlip (golden: tests/golden/resize.npz).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

Size = tuple[int, int]
# A picture before it is part of a batch.  From decoding to padding it stays in PIL's own form: that
# spares two conversions of all pixels.
Pixels = UInt8[np.ndarray, "h w 3"] | Image.Image


def resized_size(size: Size, short_side: int, max_side: int) -> Size:
  """Size with the short side at `short_side`, or less where the long side would pass `max_side`."""
  height, width = size
  scale = short_side / min(height, width)
  new_height, new_width = (
    (short_side, scale * width) if height < width else (scale * height, short_side)
  )
  longest = max(new_height, new_width)
  if longest > max_side:
    shrink = max_side / longest
    new_height, new_width = new_height * shrink, new_width * shrink
  # A very thin image keeps at least one pixel.
  return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


def resize(
  image: Pixels, size: Size, crop: tuple[float, float, float, float] | None = None
) -> Image.Image:
  """PIL bilinear resize (antialiased when shrinking) of the image, or of an XYXY crop of it."""
  picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
  height, width = size
  if crop is None and picture.size == (width, height):
    return picture
  return picture.resize((width, height), Image.Resampling.BILINEAR, box=crop)


def mirror(picture: Image.Image) -> Image.Image:
  """Left to right; several times as fast as copying a NumPy array backwards."""
  return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def scale_boxes(boxes: Float[np.ndarray, "n 4"], old: Size, new: Size) -> Float[np.ndarray, "n 4"]:
  """Boxes of an image of size `old` in the pixels of the image resized to `new`."""
  y, x = new[0] / old[0], new[1] / old[1]
  return boxes * np.array([x, y, x, y])


def flip_boxes(boxes: Float[np.ndarray, "n 4"], width: int) -> Float[np.ndarray, "n 4"]:
  """Mirrors boxes left to right: x -> width - x, left and right edge exchanged."""
  x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
  return np.stack([width - x2, y1, width - x1, y2], axis=-1)


def nonempty(boxes: Float[np.ndarray, "n 4"]) -> Bool[np.ndarray, "n"]:
  """Boxes with an area; as in detectron2 a side of at most 1e-5 pixels counts as none."""
  return np.all((boxes[:, 2:] - boxes[:, :2]) > 1e-5, axis=-1)


@dataclasses.dataclass(frozen=True)
class View:
  """How one picture is shown to the network: resized, then perhaps mirrored."""

  original: Size
  size: Size
  flip: bool = False

  def image(self, image: Pixels) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Pixels of the view, from the picture at its original size or already resized."""
    resized = resize(image, self.size)
    return np.asarray(mirror(resized) if self.flip else resized)

  def boxes(self, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Boxes of the original picture in the view, clipped to it (float64 inside, float32 out)."""
    height, width = self.size
    moved = scale_boxes(np.asarray(boxes, np.float64).reshape(-1, 4), self.original, self.size)
    if self.flip:
      moved = flip_boxes(moved, width)
    return np.clip(moved, 0, np.array([width, height, width, height])).astype(np.float32)

  def polygons(self, polygons: Sequence[Float[np.ndarray, "_ 2"]]) -> list[np.ndarray]:
    """Polygons (XY) of the original picture in the view, not clipped (float64)."""
    (old_height, old_width), (height, width) = self.original, self.size
    moved = [np.asarray(p, np.float64) * (width / old_width, height / old_height) for p in polygons]
    return [p * (-1, 1) + (width, 0) for p in moved] if self.flip else moved


def pad_to_canvas(
  image: UInt8[np.ndarray, "h w 3"],
  canvas: Size,
  name: str,
  out: UInt8[np.ndarray, "h2 w2 3"] | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Pads with zeros at the bottom and right, in `out` if zeros of that size are given.

  Raises:
    ValueError: the image, called `name`, is larger than the canvas.
  """
  height, width = image.shape[:2]
  if height > canvas[0] or width > canvas[1]:
    raise ValueError(
      f"Image {name} is {height} x {width} (height x width) after resizing and does not fit the "
      f"canvas {canvas[0]} x {canvas[1]}: enlarge the canvas, or lower short_sides or max_side."
    )
  padded = np.zeros((*canvas, 3), np.uint8) if out is None else out
  padded[:height, :width] = image
  return padded
