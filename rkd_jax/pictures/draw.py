"""Boxes and masks on pictures: RGB uint8 arrays in and out.

Colours follow the name of the class, or tell instances apart, or say which classes are novel.  The
labels of novel classes have a star.
"""

import collections
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageColor, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage

from rkd_jax.ops.host import covered
from rkd_jax.pictures import fonts
from rkd_jax.pictures.colours import class_colour, instance_colours, text_on

BASE_COLOUR = "#1f6fd6"
NOVEL_COLOUR = "#d9480f"
NOVEL_MARK = "★ "
COLOURINGS = ("class", "instance", "novelty")
_MASK_OPACITY = 0.4
_LABEL_OPACITY = 0.78
_MOST_HIDDEN = 0.6  # of a label that others lie below
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
  colour_by: str = "class",
  legend: bool = False,
) -> Picture:
  """Draws detections with class name and score, the best on top; the rest is as in `draw_boxes`.

  Args:
    colour_by: 'class' (`colours.class_colour`), 'instance', or 'novelty': base blue, novel orange.
    legend: adds a strip below the picture with the colour and number of each class.

  Raises:
    ValueError: as `draw_boxes`, a score is not finite, or an unknown `colour_by`.
  """
  scores = np.asarray(scores, np.float32)
  _check_lengths(boxes=boxes, scores=scores, names=names, novel=novel, masks=segmentations)
  if not np.isfinite(scores).all():
    raise ValueError(f"scores {scores} are not all finite; check the checkpoint")
  if colour_by not in COLOURINGS:
    raise ValueError(f"colour_by is {colour_by!r}; expected one of {', '.join(COLOURINGS)}")
  order = np.argsort(-scores, kind="stable")
  marked = [f"{NOVEL_MARK if novel[i] else ''}{names[i]}" for i in order]
  if colour_by == "class":
    colours = [class_colour(names[i]) for i in order]
  elif colour_by == "instance":
    colours = instance_colours(len(order))
  else:
    colours = novel_colours([novel[i] for i in order])
  picture = draw_boxes(
    image,
    np.asarray(boxes)[order],
    [f"{name} {scores[i]:.2f}" for name, i in zip(marked, order)],
    colours,
    segmentations=segmentations and [segmentations[i] for i in order],
  )
  if not legend or not names:
    return picture
  counts = collections.Counter(marked)
  own = dict(zip(marked, colours))
  entries = [
    (f"{name} × {count}", BASE_COLOUR if colour_by == "instance" else own[name])
    for name, count in counts.most_common()
  ]
  return with_legend(picture, entries)


def with_legend(picture: Picture, entries: Sequence[tuple[str, str]]) -> Picture:
  """The picture above a strip of (text, colour), in as many lines as it takes."""
  height, width = picture.shape[:2]
  size = _text_size(min(height, width))
  gap, line = round(0.6 * size), round(1.7 * size)
  places, x, y = [], gap, 0
  for text, colour in entries:
    text = fonts.shortened(text, size, max(width - size - 3 * gap, size))
    needed = size + gap + fonts.length(text, size)
    if x > gap and x + needed > width - gap:
      x, y = gap, y + line
    places.append((x, y, text, colour))
    x += needed + 2 * gap
  strip = Image.new("RGB", (width, y + line), "white")
  draw = ImageDraw.Draw(strip)
  for x, y, text, colour in places:
    top = y + (line - size) // 2
    draw.rectangle((x, top, x + size - 1, top + size - 1), fill=colour)
    fonts.draw(draw, (x + size + gap / 2, top + 0.85 * size), text, size, "black")
  return np.concatenate([picture, np.asarray(strip)])


def draw_boxes(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  labels: Sequence[str],
  colours: Sequence[str],
  min_side: int = 384,
  segmentations: Sequence[Mapping[str, Any]] | None = None,
  dashed: Sequence[bool] | None = None,
) -> Picture:
  """Draws boxes (XYXY pixels) in colours like '#2b8a3e', the first on top, masks under all boxes.

  Small pictures are enlarged by a whole factor until the short side has at least `min_side` pixels,
  so that labels are legible, but no longer than 4,096 pixels.  Lines and text grow with the short
  side.  Labels stay inside the picture, where they hide as little of each other as can be; those
  that are larger than it, empty, or mostly on others wherever they are put are left out.
  `segmentations` has the mask of each box as COCO run lengths (`frozen.detector.encode_masks`),
  `dashed` says which boxes are.

  Raises:
    ValueError: not an RGB uint8 image, lengths differ, a box not finite, a mask of another size
      than the image.
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
      f"image has shape {image.shape} and type {image.dtype}, expected (height, width, 3) uint8"
    )
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  _check_lengths(boxes=boxes, names=labels, colours=colours, masks=segmentations, dashed=dashed)
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
  line = max(2, round(short / 160)) if short > 32 else 1
  size = _text_size(short, len(boxes))
  if segmentations:
    picture = _paint_masks(picture, segmentations[::-1], colours[::-1], factor, max(1, line // 2))
  # Ink with an alpha is blended.
  draw = ImageDraw.Draw(picture, "RGBA")
  corners = np.clip(boxes * factor, 0, [width - 1, height - 1] * 2)
  dashes = [False] * len(boxes) if dashed is None else dashed
  for box, colour, dash in zip(corners[::-1].tolist(), colours[::-1], dashes[::-1], strict=True):
    _outline(draw, box, colour, line, dash)
  # The first get the place they want; labels lie above all boxes.
  taken: list[tuple[float, ...]] = []
  pad = max(3, size // 5)
  for box, label, colour in zip(corners, labels, colours, strict=True):
    text = fonts.shortened(" ".join(label.split()), size, width - 2 * pad)
    length, above, below = fonts.extent(text, size)
    needed = (length + 2 * pad, above + below + pad)
    if not text or needed[0] > width or needed[1] > height:
      continue
    place = _place_label(box, needed, (width, height), taken)
    if covered(np.array([place]), np.reshape(taken, (-1, 4))).sum() > _MOST_HIDDEN:
      continue
    taken.append(place)
    draw.rectangle(place, fill=(*ImageColor.getrgb(colour), round(255 * _LABEL_OPACITY)))
    baseline = (place[0] + pad, place[1] + pad / 2 + above)
    fonts.draw(draw, baseline, text, size, text_on(colour))
  return np.asarray(picture)


def _text_size(short: int, labels: int = 1) -> int:
  """Pixels of an em on a picture whose short side is given; smaller where there are many labels."""
  return max(11 if labels > 12 else 13, round(short / (40 if labels > 12 else 28)))


def _outline(
  draw: ImageDraw.ImageDraw, box: Sequence[float], colour: str, line: int, dashed: bool
) -> None:
  """A rectangle that begins at the box; a shade inside keeps its line from the image."""
  x1, y1, x2, y2 = map(round, box)
  if line > 1 and min(x2 - x1, y2 - y1) > 4 * line:
    inner = (x1 + line, y1 + line, x2 - line, y2 - line)
    draw.rectangle(inner, outline=(0, 0, 0, 90), width=1)
  if not dashed:
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=line)
    return
  step = 4 * line
  for x in range(x1, x2 + 1, 2 * step):
    right = min(x + step, x2)
    draw.rectangle((x, y1, right, min(y1 + line - 1, y2)), fill=colour)
    draw.rectangle((x, max(y2 - line + 1, y1), right, y2), fill=colour)
  for y in range(y1, y2 + 1, 2 * step):
    bottom = min(y + step, y2)
    draw.rectangle((x1, y, min(x1 + line - 1, x2), bottom), fill=colour)
    draw.rectangle((max(x2 - line + 1, x1), y, x2, bottom), fill=colour)


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


def _place_label(
  box: Float[np.ndarray, "4"],
  size: tuple[float, float],
  canvas: tuple[int, int],
  taken: Sequence[tuple[float, ...]],
) -> tuple[float, ...]:
  """Where a label goes: above the box, below, inside or beside it; the first place that is free.

  Always within the canvas.  Where no place is free, the one that hides least.
  """
  (x1, y1, x2, y2), (w, h) = box.tolist(), size
  wanted = [(x1, y1 - h), (x1, y2), (x1, y1), (x2 - w, y1 - h), (x2 - w, y2)]
  wanted += [(x1, y2 - h), (x2 - w, y1), (x2 - w, y2 - h), (x2, y1), (x1 - w, y1)]
  wanted += [((x1 + x2 - w) / 2, y) for y in (y1 - h, y2, (y1 + y2 - h) / 2)]
  wanted += [(x1, y1 - 2 * h), (x1, y2 + h), (x2, y2 - h), (x1 - w, y2 - h)]
  corners = np.clip(wanted, 0, np.array(canvas) - 1 - size)
  places = np.concatenate([corners, corners + size], axis=1)
  hidden = covered(places, np.reshape(taken, (-1, 4))).sum(axis=1)
  return tuple(places[hidden.argmin()].tolist())


def png_bytes(image: Picture) -> bytes:
  """The image as a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "PNG")
  return buffer.getvalue()
