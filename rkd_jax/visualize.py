"""Pictures: boxes and masks on images, contact sheets, similarity heat maps, training curves.

Everything takes and gives RGB uint8 arrays, is a pure function of its arguments
and uses no global plotting state.  Novel classes are orange, base classes blue.
"""

import functools
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageColor, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

BASE_COLOUR = "#1f6fd6"
NOVEL_COLOUR = "#d9480f"
_RUN_COLOURS = ("#495057", "#1f6fd6", "#d9480f", "#2b8a3e", "#9c36b5", "#b08900", "#0b7285")
_INK = "#212529"
_DPI = 110
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
  return _draw(image, boxes, labels, novel, order, min_side, segmentations)


def draw_ground_truth(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  names: Sequence[str],
  novel: Bool[np.ndarray, "n"] | Sequence[bool],
  min_side: int = 384,
) -> Picture:
  """Draws annotated boxes with their class names; see `draw_detections`."""
  return _draw(image, boxes, list(names), novel, np.arange(len(names)), min_side)


def _draw(
  image: Picture,
  boxes: Float[np.ndarray, "n 4"],
  labels: list[str],
  novel: Sequence[bool],
  order: Int[np.ndarray, "m"],
  min_side: int,
  segmentations: Sequence[Mapping[str, Any]] | None = None,
) -> Picture:
  _check_image(image)
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  if not len(boxes) == len(labels) == len(novel):
    raise ValueError(
      f"{len(boxes)} boxes, {len(labels)} names and {len(novel)} novel flags; give one of each"
    )
  if not np.isfinite(boxes).all():
    raise ValueError(f"boxes {boxes.tolist()} are not all finite; check the checkpoint")
  factor = max(1, math.ceil(min_side / min(image.shape[:2])))
  height, width = image.shape[0] * factor, image.shape[1] * factor
  picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
  short = min(height, width)
  line = max(2, round(short / 128))
  font = ImageFont.load_default(max(13, round(short / 26)))
  colours = [NOVEL_COLOUR if flag else BASE_COLOUR for flag in novel]
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


def class_similarities(
  embeddings: Float[np.ndarray, "n d"],
  classes: Int[np.ndarray, "n"],
  selected: Sequence[int],
) -> Float[np.ndarray, "c c"]:
  """Cosines between the mean region embeddings of the selected classes.

  Regions are normalised before the mean and the mean after it, so that no region
  counts more than another.  This is the Gram matrix that IRM compares, per class.
  Rows and columns of a class without a region are NaN (drawn grey).
  """
  embeddings = np.asarray(embeddings, np.float64)
  if not np.isfinite(embeddings).all():
    raise ValueError("region embeddings are not all finite; check the checkpoint")
  norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
  embeddings = embeddings / np.maximum(norms, 1e-12)
  means = np.full((len(selected), embeddings.shape[1]), np.nan)
  for row, index in enumerate(selected):
    members = embeddings[np.asarray(classes) == index]
    if len(members):
      mean = members.mean(axis=0)
      means[row] = mean / max(np.linalg.norm(mean), 1e-12)
  return (means @ means.T).astype(np.float32)


def agreement(a: Float[np.ndarray, "c c"], b: Float[np.ndarray, "c c"]) -> float | None:
  """Pearson correlation of two similarity matrices off the diagonal.

  NaN entries are left out; None where fewer than three pairs or no variation remain.
  """
  upper = np.triu_indices(len(a), k=1)
  x, y = np.asarray(a, np.float64)[upper], np.asarray(b, np.float64)[upper]
  known = np.isfinite(x) & np.isfinite(y)
  x, y = x[known], y[known]
  if len(x) < 3 or x.std() == 0 or y.std() == 0:
    return None
  return float(np.corrcoef(x, y)[0, 1])


def similarity_figure(
  matrices: Mapping[str, Float[np.ndarray, "c c"]], names: Sequence[str]
) -> Picture:
  """Heat maps of similarity matrices side by side, one colour scale for all.

  The first matrix is the reference (CLIP); the others' titles say how well they
  agree with it (`agreement`).
  """
  if not matrices:
    raise ValueError("there is no similarity matrix to draw")
  for title, matrix in matrices.items():
    if np.shape(matrix) != (len(names), len(names)):
      raise ValueError(f"{title}: matrix {np.shape(matrix)} for {len(names)} class names")
  side = max(3.2, 0.2 * len(names) + 1.2)
  figure = Figure(figsize=(side * len(matrices) + 2.2, side + 1.7), layout="constrained")
  axes = figure.subplots(1, len(matrices), squeeze=False)[0]
  off_diagonal = ~np.eye(len(names), dtype=bool)
  values = np.concatenate([np.asarray(matrix)[off_diagonal] for matrix in matrices.values()])
  values = values[np.isfinite(values)]
  low = float(values.min()) if len(values) else 0.0
  reference = next(iter(matrices.values()))
  for column, (axis, (title, matrix)) in enumerate(zip(axes, matrices.items(), strict=True)):
    axis.set_facecolor("#ced4da")
    heat = axis.imshow(np.asarray(matrix), cmap="viridis", vmin=min(low, 0.99), vmax=1.0)
    shared = agreement(reference, matrix) if column else None
    note = "" if shared is None else f"agreement with {next(iter(matrices))}: r = {shared:.2f}"
    axis.set_title(f"{title}\n{note}", fontsize=10, color=_INK)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names if column == 0 else [""] * len(names), fontsize=7)
    axis.tick_params(length=0)
  figure.colorbar(heat, ax=list(axes), label="cosine", shrink=0.7)
  return _render(figure)


def curves_figure(
  runs: Mapping[str, Sequence[Mapping[str, Any]]],
  keys: Sequence[str] | None = None,
  columns: int = 3,
) -> Picture:
  """Training curves: one panel per kind and metric, one line per run.

  Args:
    runs: name of the run (stage) to its records, as `read_metrics` gives them.
    keys: the metrics to draw; by default every number in the records.
    columns: panels per row.

  Raises:
    ValueError: no record has such a metric.
  """
  curves = _collect_curves(runs, keys)
  if not curves:
    raise ValueError(f"no record of {list(runs)} has a metric to draw among {keys or 'all'}")
  columns = min(columns, len(curves))
  rows = math.ceil(len(curves) / columns)
  figure = Figure(figsize=(4.2 * columns, 2.8 * rows + 0.6), layout="constrained")
  figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  colours = {run: _RUN_COLOURS[i % len(_RUN_COLOURS)] for i, run in enumerate(runs)}
  for axis, ((kind, key), by_run) in zip(axes, curves.items(), strict=False):
    for run, points in by_run.items():
      steps, values = (np.array(column, np.float64) for column in zip(*points, strict=True))
      colour = colours[run]
      if len(steps) > 20:
        axis.plot(steps, values, color=colour, alpha=0.18, linewidth=0.8)
        axis.plot(steps, _smooth(values), color=colour, linewidth=1.6)
      else:
        axis.plot(steps, values, "o-", color=colour, markersize=3.5)
    axis.set_title(f"{kind} · {key}" if kind else key, fontsize=10, color=_INK)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
  for axis in axes[len(curves) :]:
    axis.set_visible(False)
  figure.supxlabel("step", fontsize=9)
  drawn = [run for run in runs if any(run in by_run for by_run in curves.values())]
  figure.legend(
    [Line2D([], [], color=colours[run], linewidth=2) for run in drawn],
    drawn,
    loc="outside upper center",
    ncols=min(len(drawn), 5),
    frameon=False,
    fontsize=9,
  )
  return _render(figure)


def _collect_curves(
  runs: Mapping[str, Sequence[Mapping[str, Any]]], keys: Sequence[str] | None
) -> dict[tuple[str, str], dict[str, list[tuple[int, float]]]]:
  """(kind, metric) to run to its (step, value) points, the panels of a kind together."""
  curves: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
  for run, records in runs.items():
    for record in records:
      for key, value in record.items():
        is_number = isinstance(value, int | float) and key != "step"
        if is_number and (keys is None or key in keys):
          panel = curves.setdefault((record.get("kind", ""), key), {})
          panel.setdefault(run, []).append((record["step"], value))
  kinds = list(dict.fromkeys(kind for kind, _ in curves))
  return {panel: curves[panel] for panel in sorted(curves, key=lambda p: kinds.index(p[0]))}


def _smooth(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
  """Mean over a window of a 30th of the curve on each side, shorter at its ends."""
  reach = max(1, len(values) // 30)
  sums = np.concatenate([[0.0], np.cumsum(values)])
  index = np.arange(len(values))
  low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
  return (sums[high] - sums[low]) / (high - low)


def _render(figure: Figure) -> Picture:
  figure.set_dpi(_DPI)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


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
