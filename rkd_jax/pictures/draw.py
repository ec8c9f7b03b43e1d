"""Pictures: boxes and masks on images, contact sheets.

Everything takes and gives RGB uint8 arrays and is a pure function of its arguments.
Novel classes are orange, base classes blue.
"""

import functools
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

BASE_COLOUR = "#1f6fd6"
NOVEL_COLOUR = "#d9480f"
_INK = "#212529"
_MASK_OPACITY = 0.4

Picture = UInt8[np.ndarray, "h w 3"]


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
  """Draws detections with class name and score, the best on top, and masks under their boxes.

  Small pictures are enlarged by a whole factor until the short side has at least
  `min_side` pixels, so that labels are legible; labels stay inside the picture.

  Args:
    image: RGB.
    boxes: XYXY in pixels of `image`.
    scores: in [0, 1].
    names: class name of each box.
    novel: whether the class is novel (orange) or base (blue).
    min_score: boxes below it are left out.
    max_boxes: at most so many, best first; None for all.
    min_side: see above.
    segmentations: mask of each box as COCO run lengths (`evaluation.coco.encode_masks`).

  Raises:
    ValueError: not an RGB uint8 image, lengths differ, a box or score not finite, a mask of
      another size than the image.
  """
  scores = np.asarray(scores, np.float32)
  if len(scores) != len(names):
    raise ValueError(f"{len(scores)} scores and {len(names)} names; give one of each per box")
  if not np.isfinite(scores).all():
    raise ValueError(f"scores {scores} are not all finite; check the checkpoint")
  order = np.argsort(-scores, kind="stable")
  order = order[scores[order] >= min_score][:max_boxes]
  labels = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
  return _draw(image, boxes, labels, _novel_colours(novel), order, min_side, segmentations)


def draw_ground_truth(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  names: Sequence[str],
  novel: Bool[np.ndarray, "n"] | Sequence[bool],
  min_side: int = 384,
) -> Picture:
  """Draws annotated boxes with their class names; see `draw_detections`."""
  return draw_boxes(image, boxes, names, _novel_colours(novel), min_side)


def draw_boxes(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  labels: Sequence[str],
  colours: Sequence[str],
  min_side: int = 384,
  segmentations: Sequence[Mapping[str, Any]] | None = None,
) -> Picture:
  """Draws boxes of any meaning, each in its own colour, the first on top; see `draw_detections`."""
  return _draw(image, boxes, list(labels), colours, np.arange(len(labels)), min_side, segmentations)


def _novel_colours(novel: Sequence[bool]) -> list[str]:
  return [NOVEL_COLOUR if flag else BASE_COLOUR for flag in novel]


def _draw(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  labels: list[str],
  colours: Sequence[str],
  order: Int[np.ndarray, "m"],
  min_side: int,
  segmentations: Sequence[Mapping[str, Any]] | None = None,
) -> Picture:
  _check_image(image)
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  if not len(boxes) == len(labels) == len(colours):
    raise ValueError(
      f"{len(boxes)} boxes, {len(labels)} names and {len(colours)} colours (or novel flags); give "
      "one of each"
    )
  if not np.isfinite(boxes).all():
    raise ValueError(f"boxes {boxes.tolist()} are not all finite; check the checkpoint")
  factor = max(1, math.ceil(min_side / min(image.shape[:2])))
  height, width = image.shape[0] * factor, image.shape[1] * factor
  picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
  short = min(height, width)
  line = max(2, round(short / 128))
  font = ImageFont.load_default(max(13, round(short / 26)))
  if segmentations is not None:
    masks = _masks(segmentations, len(boxes), image.shape[:2], order[::-1])
    picture = _paint_masks(
      picture, masks, [colours[i] for i in order[::-1]], factor, max(1, line // 2)
    )
  draw = ImageDraw.Draw(picture)
  corners = np.clip(boxes * factor, 0, [width - 1, height - 1] * 2)
  for i in reversed(order):
    draw.rectangle(corners[i].tolist(), outline=colours[i], width=line)
  # Best first, so that these get the place they want; labels lie above all boxes.
  taken: list[tuple[float, float, float, float]] = []
  for i in order:
    text = _fit(draw, labels[i], font, width - 6)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    size = (right - left + 6, bottom - top + 6)
    place = _place_label(corners[i], size, (width, height), taken)
    taken.append(place)
    draw.rectangle(place, fill=colours[i])
    draw.text((place[0] + 3 - left, place[1] + 3 - top), text, fill="white", font=font)
  return np.asarray(picture)


def _masks(
  segmentations: Sequence[Mapping[str, Any]],
  count: int,
  size: tuple[int, int],
  order: Int[np.ndarray, "m"],
) -> Iterator[Bool[np.ndarray, "h w"]]:
  """The masks in this order, one at a time; all of them are checked first."""
  if len(segmentations) != count:
    raise ValueError(f"{count} boxes and {len(segmentations)} masks; give one of each")
  for segmentation in segmentations:
    if tuple(segmentation["size"]) != tuple(size):
      raise ValueError(
        f"a mask is {tuple(segmentation['size'])} and the image {tuple(size)} (height, width); "
        "paste masks at the size of the image"
      )
  return (coco_mask.decode(segmentations[i]).astype(bool) for i in order)


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


def contact_sheet(
  rows: Sequence[Sequence[Picture]],
  column_captions: Sequence[str],
  cell: int = 384,
  gap: int = 10,
) -> Picture:
  """Lays pictures out in a grid on white, with a caption above each column.

  Pictures are shrunk to fit into `cell` × `cell` pixels, never enlarged; a short
  row leaves the rest empty.

  Raises:
    ValueError: there is no row, or a row is longer than the captions.
  """
  columns = len(column_captions)
  if not rows:
    raise ValueError("a contact sheet needs at least one row of images")
  if any(len(row) > columns for row in rows):
    raise ValueError(f"a row has more than the {columns} captioned columns")
  font = ImageFont.load_default(max(12, round(cell / 18)))
  title = round(font.size * 1.6)
  sheet = Image.new(
    "RGB",
    (columns * (cell + gap) + gap, title + gap + len(rows) * (cell + gap)),
    "white",
  )
  draw = ImageDraw.Draw(sheet)
  for j, caption in enumerate(column_captions):
    x = gap + j * (cell + gap)
    text = _fit(draw, caption, font, cell)
    draw.text((x + cell / 2, gap / 2 + title / 2), text, fill=_INK, font=font, anchor="mm")
  for i, row in enumerate(rows):
    for j, picture in enumerate(row):
      _check_image(picture)
      thumbnail = Image.fromarray(picture)
      thumbnail.thumbnail((cell, cell), Image.Resampling.LANCZOS)
      x = gap + j * (cell + gap) + (cell - thumbnail.width) // 2
      y = gap + title + i * (cell + gap) + (cell - thumbnail.height) // 2
      sheet.paste(thumbnail, (x, y))
  return np.asarray(sheet)


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
