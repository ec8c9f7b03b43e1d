"""Pictures: boxes and masks on images.

Everything takes and gives RGB uint8 arrays and is a pure function of its arguments.
Novel classes are orange, base classes blue.
"""

import functools
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

BASE_COLOUR = "#1f6fd6"
NOVEL_COLOUR = "#d9480f"
_MASK_OPACITY = 0.4

Picture = UInt8[np.ndarray, "h w 3"]


def novel_colours(novel: Bool[np.ndarray, "n"] | Sequence[bool]) -> list[str]:
  """The colour of each box by whether its class is novel."""
  return [NOVEL_COLOUR if flag else BASE_COLOUR for flag in novel]


def draw_detections(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  scores: Float[np.ndarray, "n"],
  names: Sequence[str],
  novel: Bool[np.ndarray, "n"] | Sequence[bool],
  min_score: float = 0.0,
  max_boxes: int | None = None,
  min_side: int = 384,
  segmentations: Sequence[Mapping[str, Any]] | None = None,
) -> Picture:
  """Draws detections with class name and score, the best on top; see `draw_boxes`.

  Args:
    image: RGB.
    boxes: XYXY in pixels of `image`.
    scores: in [0, 1].
    names: class name of each box.
    novel: whether the class is novel (orange) or base (blue).
    min_score: boxes below it are left out.
    max_boxes: at most so many, best first; None for all.
    min_side, segmentations: as for `draw_boxes`.

  Raises:
    ValueError: as `draw_boxes`, or a score is not finite.
  """
  scores = np.asarray(scores, np.float32)
  _check_lengths(boxes=boxes, scores=scores, names=names, novel=novel, masks=segmentations)
  if not np.isfinite(scores).all():
    raise ValueError(f"scores {scores} are not all finite; check the checkpoint")
  order = np.argsort(-scores, kind="stable")
  order = order[scores[order] >= min_score][:max_boxes]
  return draw_boxes(
    image,
    np.asarray(boxes)[order],
    [f"{names[i]} {scores[i]:.2f}" for i in order],
    novel_colours([novel[i] for i in order]),
    min_side,
    None if segmentations is None else [segmentations[i] for i in order],
  )


def draw_boxes(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  labels: Sequence[str],
  colours: Sequence[str],
  min_side: int = 384,
  segmentations: Sequence[Mapping[str, Any]] | None = None,
) -> Picture:
  """Draws boxes of any meaning, each in its own colour, the first on top, masks under all boxes.

  Small pictures are enlarged by a whole factor until the short side has at least
  `min_side` pixels, so that labels are legible; labels stay inside the picture.

  Args:
    image: RGB.
    boxes: XYXY in pixels of `image`.
    labels: text at each box.
    colours: of each box, as '#2b8a3e'.
    min_side: see above.
    segmentations: mask of each box as COCO run lengths (`evaluation.coco.encode_masks`).

  Raises:
    ValueError: not an RGB uint8 image, lengths differ, a box not finite, a mask of another size
      than the image.
  """
  _check_image(image)
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  _check_lengths(boxes=boxes, names=labels, colours=colours, masks=segmentations)
  if not np.isfinite(boxes).all():
    raise ValueError(f"boxes {boxes.tolist()} are not all finite; check the checkpoint")
  factor = max(1, math.ceil(min_side / min(image.shape[:2])))
  height, width = image.shape[0] * factor, image.shape[1] * factor
  picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
  short = min(height, width)
  line = max(2, round(short / 128))
  font = ImageFont.load_default(max(13, round(short / 26)))
  if segmentations is not None:
    masks = _masks(segmentations[::-1], image.shape[:2])
    picture = _paint_masks(picture, masks, colours[::-1], factor, max(1, line // 2))
  draw = ImageDraw.Draw(picture)
  corners = np.clip(boxes * factor, 0, [width - 1, height - 1] * 2)
  for box, colour in zip(corners[::-1].tolist(), colours[::-1], strict=True):
    draw.rectangle(box, outline=colour, width=line)
  # The first get the place they want; labels lie above all boxes.
  taken: list[tuple[float, float, float, float]] = []
  for box, label, colour in zip(corners, labels, colours, strict=True):
    text = _fit(draw, label, font, width - 6)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    size = (right - left + 6, bottom - top + 6)
    place = _place_label(box, size, (width, height), taken)
    taken.append(place)
    draw.rectangle(place, fill=colour)
    draw.text((place[0] + 3 - left, place[1] + 3 - top), text, fill="white", font=font)
  return np.asarray(picture)


def _check_lengths(**columns: Sequence | None) -> None:
  counts = {name: len(own) for name, own in columns.items() if own is not None}
  if len(set(counts.values())) > 1:
    found = ", ".join(f"{count} {name}" for name, count in counts.items())
    raise ValueError(f"{found}; give one of each")


def _masks(
  segmentations: Sequence[Mapping[str, Any]], size: tuple[int, int]
) -> Iterator[Bool[np.ndarray, "h w"]]:
  """The masks, one at a time; all of them are checked first."""
  for segmentation in segmentations:
    if tuple(segmentation["size"]) != tuple(size):
      raise ValueError(
        f"a mask is {tuple(segmentation['size'])} and the image {tuple(size)} (height, width); "
        "paste masks at the size of the image"
      )
  return (coco_mask.decode(own).astype(bool) for own in segmentations)


def _paint_masks(
  picture: Image.Image,
  masks: Iterable[Bool[np.ndarray, "h w"]],
  colours: Sequence[str],
  factor: int,
  line: int,
) -> Image.Image:
  """Masks as translucent areas with an opaque edge, the last on top."""
  pixels = np.array(picture)
  for mask, colour in zip(masks, colours, strict=True):
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
      continue
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside = mask[window].repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = inside.shape
    core = np.pad(inside, line)
    core = functools.reduce(np.logical_and, (core[k : k + height] for k in range(2 * line + 1)))
    core = functools.reduce(np.logical_and, (core[:, k : k + width] for k in range(2 * line + 1)))
    top, left = rows[0] * factor, columns[0] * factor
    area = pixels[top : top + height, left : left + width]
    ink = np.array(ImageColor.getrgb(colour))
    area[inside] = (area[inside] * (1 - _MASK_OPACITY) + ink * _MASK_OPACITY).astype(np.uint8)
    area[inside & ~core] = ink
  return Image.fromarray(pixels)


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
  """The text, shortened in the middle where it is wider than `width` pixels."""
  shortened = text
  for kept in range(len(text), 1, -1):
    if draw.textlength(shortened, font=font) <= width:
      break
    half = kept // 2
    shortened = f"{text[:half]}…{text[len(text) - half :]}"
  return shortened


def _place_label(
  box: Float[np.ndarray, "4"],
  size: tuple[float, float],
  canvas: tuple[int, int],
  taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
  """Where a label goes: above the box, below or inside; the first place that is free.

  Always within the canvas.  Where no place is free, the one that hides least.
  """
  (x1, y1, x2, y2), (w, h) = box.tolist(), size
  places = []
  for x, y in (
    (x1, y1 - h),
    (x1, y2),
    (x1, y1),
    (x2 - w, y1 - h),
    (x2 - w, y2),
    (x1, y2 - h),
    (x1, y1 - 2 * h),
    (x1, y2 + h),
  ):
    x = min(max(x, 0.0), canvas[0] - 1 - w)
    y = min(max(y, 0.0), canvas[1] - 1 - h)
    places.append((x, y, x + w, y + h))

  def hidden(place: tuple[float, float, float, float]) -> float:
    return sum(
      max(0.0, min(place[2], other[2]) - max(place[0], other[0]))
      * max(0.0, min(place[3], other[3]) - max(place[1], other[1]))
      for other in taken
    )

  return min(places, key=hidden)


def png_bytes(image: Picture) -> bytes:
  """The image as a PNG file."""
  _check_image(image)
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "PNG")
  return buffer.getvalue()


def _check_image(image: Picture) -> None:
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
      f"image has shape {image.shape} and type {image.dtype}, expected (height, width, 3) uint8"
    )
