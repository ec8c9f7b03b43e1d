"""Boxes and masks on pictures: RGB uint8 arrays in and out.

Novel classes are orange, base classes blue.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont
from pycocotools import mask as coco_mask
from scipy import ndimage

from rkd_jax.ops.host import covered

BASE_COLOUR = "#1f6fd6"
NOVEL_COLOUR = "#d9480f"
_MASK_OPACITY = 0.4
# Of what is drawn: small pictures are enlarged up to the one, large ones reduced to the others.
_ENLARGED_SIDE = 4096
_MOST_PIXELS, _LONGEST_SIDE = 2**25, 2**14

Picture = UInt8[np.ndarray, "h w 3"]


def fitted(image: Image.Image) -> Picture:
  """The picture to draw on: the image, reduced if it has over 33 megapixels or a side over 16,384.

  A picture of any image can so be opened, and drawn in little memory.
  """
  width, height = image.size
  scale = min(1.0, math.sqrt(_MOST_PIXELS / (width * height)), _LONGEST_SIDE / max(image.size))
  if scale < 1:
    size = max(int(width * scale), 1), max(int(height * scale), 1)
    image = image.resize(size, Image.Resampling.BOX)
  return np.asarray(image)


def novel_colours(novel: Bool[np.ndarray, "n"] | Sequence[bool]) -> list[str]:
  """The colour of each box by whether its class is novel."""
  return [NOVEL_COLOUR if flag else BASE_COLOUR for flag in novel]


def draw_detections(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  scores: Float[np.ndarray, "n"],
  names: Sequence[str],
  novel: Bool[np.ndarray, "n"] | Sequence[bool],
  segmentations: Sequence[Mapping[str, Any]] | None = None,
) -> Picture:
  """Draws detections with class name and score, the best on top; the rest is as in `draw_boxes`.

  Raises:
    ValueError: as `draw_boxes`, or a score is not finite.
  """
  scores = np.asarray(scores, np.float32)
  _check_lengths(boxes=boxes, scores=scores, names=names, novel=novel, masks=segmentations)
  if not np.isfinite(scores).all():
    raise ValueError(f"scores {scores} are not all finite; check the checkpoint")
  order = np.argsort(-scores, kind="stable")
  return draw_boxes(
    image,
    np.asarray(boxes)[order],
    [f"{names[i]} {scores[i]:.2f}" for i in order],
    novel_colours([novel[i] for i in order]),
    segmentations=segmentations and [segmentations[i] for i in order],
  )


def draw_boxes(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  labels: Sequence[str],
  colours: Sequence[str],
  min_side: int = 384,
  segmentations: Sequence[Mapping[str, Any]] | None = None,
) -> Picture:
  """Draws boxes (XYXY pixels) in colours like '#2b8a3e', the first on top, masks under all boxes.

  Small pictures are enlarged by a whole factor until the short side has at least `min_side` pixels,
  so that labels are legible, but no longer than 4,096 pixels.  Labels stay inside the picture;
  those that are larger than it are left out.  `segmentations` has the mask of each box as COCO run
  lengths (`frozen.detector.encode_masks`).

  Raises:
    ValueError: not an RGB uint8 image, lengths differ, a box not finite, a mask of another size
      than the image.
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
      f"image has shape {image.shape} and type {image.dtype}, expected (height, width, 3) uint8"
    )
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  _check_lengths(boxes=boxes, names=labels, colours=colours, masks=segmentations)
  if not np.isfinite(boxes).all():
    raise ValueError(f"boxes {boxes.tolist()} are not all finite; check the checkpoint")
  for segmentation in segmentations or ():
    if tuple(segmentation["size"]) != image.shape[:2]:
      raise ValueError(
        f"a mask is {tuple(segmentation['size'])} and the image {image.shape[:2]} (height, width); "
        "paste masks at the size of the image"
      )
  short, long = sorted(image.shape[:2])
  factor = max(1, min(math.ceil(min_side / short), _ENLARGED_SIDE // long))
  height, width = image.shape[0] * factor, image.shape[1] * factor
  picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
  short *= factor
  line = max(2, round(short / 128)) if short > 32 else 1
  font = ImageFont.load_default(max(13, round(short / 26)))
  if segmentations:
    picture = _paint_masks(picture, segmentations[::-1], colours[::-1], factor, max(1, line // 2))
  draw = ImageDraw.Draw(picture)
  corners = np.clip(boxes * factor, 0, [width - 1, height - 1] * 2)
  for box, colour in zip(corners[::-1].tolist(), colours[::-1], strict=True):
    draw.rectangle(box, outline=colour, width=line)
  # The first get the place they want; labels lie above all boxes.
  taken: list[tuple[float, ...]] = []
  for box, label, colour in zip(corners, labels, colours, strict=True):
    text = _fit(draw, label, font, width - 6)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    size = (right - left + 6, bottom - top + 6)
    if size[0] > width or size[1] > height:
      continue
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


def _paint_masks(
  picture: Image.Image,
  segmentations: Sequence[Mapping[str, Any]],
  colours: Sequence[str],
  factor: int,
  line: int,
) -> Image.Image:
  """Masks as translucent areas with an opaque edge, the last on top."""
  pixels = np.array(picture)
  for segmentation, colour in zip(segmentations, colours, strict=True):
    mask = coco_mask.decode(segmentation).astype(bool)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
      continue
    (top, bottom), (left, right) = (rows[[0, -1]] + [0, 1]), (columns[[0, -1]] + [0, 1])
    inside = mask[top:bottom, left:right].repeat(factor, axis=0).repeat(factor, axis=1)
    core = ndimage.minimum_filter(inside, 2 * line + 1, mode="constant")
    area = pixels[top * factor : bottom * factor, left * factor : right * factor]
    ink = np.array(ImageColor.getrgb(colour))
    area[inside] = (area[inside] * (1 - _MASK_OPACITY) + ink * _MASK_OPACITY).astype(np.uint8)
    area[inside & np.logical_not(core)] = ink
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
  taken: Sequence[tuple[float, ...]],
) -> tuple[float, ...]:
  """Where a label goes: above the box, below or inside; the first place that is free.

  Always within the canvas.  Where no place is free, the one that hides least.
  """
  (x1, y1, x2, y2), (w, h) = box.tolist(), size
  wanted = [(x1, y1 - h), (x1, y2), (x1, y1), (x2 - w, y1 - h), (x2 - w, y2)]
  wanted += [(x1, y2 - h), (x1, y1 - 2 * h), (x1, y2 + h)]
  corners = np.clip(wanted, 0, np.array(canvas) - 1 - size)
  places = np.concatenate([corners, corners + size], axis=1)
  hidden = covered(places, np.reshape(taken, (-1, 4))).sum(axis=1)
  return tuple(places[hidden.argmin()].tolist())


def png_bytes(image: Picture) -> bytes:
  """The image as a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "PNG")
  return buffer.getvalue()
