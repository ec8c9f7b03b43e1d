"""Draws the batches that training reads, to see what the network sees.

  python -m rkd_jax.show --config=configs/coco/rkd_ils.py --output=DIR
  python -m rkd_jax.show --config=configs/coco/rkd_ils.py --output=DIR --step=5000 --steps=4

DIR gets a sheet (PNG) per step with every image of the batch on its canvas: hatched is what only
pads, and in the colours of the legend are the boxes and masks of the ground truth, pseudo boxes
with their labels, and the teacher's regions by rank.  Batches depend on the seed and the step
alone, so these are the ones that a run of this config has at these steps.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from rkd_jax import commands
from rkd_jax.inputs.batching import train_batches
from rkd_jax.inputs.plan import make_plan
from rkd_jax.pictures.draw import Picture, draw_boxes, png_bytes
from rkd_jax.structures import Batch, GroundTruth, PseudoBoxes, Regions

COLOURS = {"ground truth": "#2b8a3e", "pseudo box": "#d9480f", "region": "#9c36b5"}
PADDING = np.array([[206, 212, 218], [241, 243, 245]], np.uint8)
_INK, _GREY = "#212529", "#868e96"
_STRIPE, _GAP = 8, 12  # pixels


def show(config: ml_collections.ConfigDict, output: str, step: int, steps: int, cell: int) -> None:
  """Writes the sheets of the steps step .. step + steps - 1.

  Raises:
    ValueError: not a detector's config, or a batch cannot be made.
  """
  if config.task != "detector":
    raise ValueError(
      f"The config trains task {config.task!r}; only batches of detectors are drawn."
    )
  plan = make_plan(config)
  folder = Path(output)
  folder.mkdir(parents=True, exist_ok=True)
  batches = train_batches(
    plan, step, step + steps, threads=0, skip_bad_images=config.skip_bad_images
  )
  for number, kind, batch in batches:
    sheet = draw_batch(batch, plan.sources[kind].class_names, f"step {number}, {kind} batch", cell)
    path = folder / f"step{number:07d}_{kind}.png"
    path.write_bytes(png_bytes(sheet))
    print(path)


def draw_batch(batch: Batch, names: Sequence[str], title: str, cell: int) -> Picture:
  """All images of a batch, each under its id and sizes, below a title and the legend."""
  pictures = []
  for row in range(len(batch.images)):
    size, original = (" x ".join(map(str, s[row])) for s in (batch.sizes, batch.original_sizes))
    picture = Image.fromarray(draw_image(batch, row, names, min_side=cell // 2))
    picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    text = f"image {batch.image_ids[row]}: {original} as {size}"
    pictures.append(_below_line([(text, _INK)], np.asarray(picture)))
  legend = [(kind, COLOURS[kind]) for kind in _kinds(batch)]
  canvas = " x ".join(map(str, batch.images.shape[1:3]))
  parts = [(f"{title}, canvas {canvas}", _INK), *legend, ("padding (hatched)", _GREY)]
  return _below_line(parts, _grid(pictures))


def draw_image(batch: Batch, row: int, names: Sequence[str], min_side: int) -> Picture:
  """One image of a batch on its canvas, with all its boxes and the names of their classes."""
  image = batch.images[row]
  height, width = batch.sizes[row]
  y, x = np.indices(image.shape[:2])
  inside = ((y < height) & (x < width))[..., None]
  boxes, labels, colours = [], [], []
  for kind, own in _present(batch).items():
    shown = own.valid[row]
    boxes.extend(own.boxes[row][shown])
    if isinstance(own, Regions):
      labels.extend(str(rank) for rank in range(1, 1 + shown.sum()))
    else:
      labels.extend(names[number] for number in own.classes[row][shown])
    own_colours = np.full(len(shown), COLOURS[kind])
    if isinstance(own, GroundTruth) and own.pseudo is not None:
      own_colours[own.pseudo[row]] = COLOURS["pseudo box"]
    colours.extend(own_colours[shown].tolist())
  masks = _masks(batch.ground_truth, row, image.shape[:2])
  if masks:
    empty = coco_mask.encode(np.zeros(image.shape[:2], np.uint8, order="F"))
    masks += [empty] * (len(boxes) - len(masks))
  picture = np.where(inside, image, PADDING[(y + x) // _STRIPE % 2])
  boxes = np.array(boxes, np.float32).reshape(-1, 4)
  return draw_boxes(picture, boxes, labels, colours, min_side, masks or None)


def _kinds(batch: Batch) -> list[str]:
  """The kinds of boxes that can be drawn; pseudo boxes may also be rows of the ground truth."""
  truth, kinds = batch.ground_truth, _present(batch).keys()
  labelled = truth is not None and truth.pseudo is not None
  return [kind for kind in COLOURS if kind in kinds or (kind == "pseudo box" and labelled)]


def _present(batch: Batch) -> dict[str, GroundTruth | PseudoBoxes | Regions]:
  """The kinds of boxes that come with a batch, in the order of `COLOURS`."""
  kinds = zip(COLOURS, (batch.ground_truth, batch.pseudo_boxes, batch.regions), strict=True)
  return {kind: own for kind, own in kinds if own is not None}


def _masks(truth: GroundTruth | None, row: int, size: tuple[int, int]) -> list[dict]:
  """Run lengths of the polygons of each valid instance; none where they have no polygons."""
  if truth is None or truth.vertices is None:
    return []
  masks = []
  for index in np.flatnonzero(truth.valid[row]):
    vertices, owners = truth.vertices[row, index], truth.owners[row, index]
    polygons = [vertices[owners == i].ravel().tolist() for i in range(owners.max() + 1)]
    if polygons:
      masks.append(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))
    else:  # a pseudo label
      masks.append(coco_mask.encode(np.zeros(size, np.uint8, order="F")))
  return masks


def _grid(pictures: Sequence[Picture]) -> Picture:
  """Pictures of one size in rows of about as many as there are rows, on white."""
  columns = math.ceil(math.sqrt(len(pictures)))
  framed = [np.pad(p, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for p in pictures]
  framed += [np.full_like(framed[0], 255)] * (-len(framed) % columns)
  rows = [np.concatenate(framed[i : i + columns], axis=1) for i in range(0, len(framed), columns)]
  return np.concatenate(rows)


def _below_line(parts: Sequence[tuple[str, str]], picture: Picture) -> Picture:
  """The picture below a line of texts in their colours, small enough to fit its width."""
  width, space = picture.shape[1], "   "
  text = space.join(part for part, _ in parts)
  size = max(width // 20, 8)
  while size > 8 and ImageFont.load_default(size).getlength(text) > width - size:
    size -= 1
  font = ImageFont.load_default(size)
  line = Image.new("RGB", (width, round(1.8 * size)), "white")
  draw, x = ImageDraw.Draw(line), size / 2
  for part, colour in parts:
    draw.text((x, line.height / 2), part, fill=colour, font=font, anchor="lm")
    x += font.getlength(part + space)
  return np.concatenate([np.asarray(line), picture])


def main(given: flags.FlagValues) -> None:
  try:
    show(given.config, given.output, given.step, given.steps, given.cell)
  except (ValueError, OSError) as error:
    sys.exit(f"{error}")


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("output", None, "Folder for the sheets.")
  flags.DEFINE_integer("step", 0, "First step to draw.", lower_bound=0)
  flags.DEFINE_integer("steps", 2, "How many steps.", lower_bound=1)
  flags.DEFINE_integer("cell", 640, "Pixels an image gets on its sheet.", lower_bound=64)
  commands.define_skip_flag()
  flags.mark_flags_as_required(["config", "output"])


if __name__ == "__main__":
  commands.run(main, define_flags)
