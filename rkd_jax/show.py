"""Draws the batches that training reads, to see what the network sees.

  python -m rkd_jax.show --config=configs/coco/rkd_ils.py --output=DIR
  python -m rkd_jax.show --config=configs/coco/rkd_ils.py --output=DIR --step=5000 --steps=4

DIR gets a sheet (PNG) per step with every image of the batch on its canvas: hatched is what only
pads, and in the colours of the legend are the boxes and masks of the ground truth, pseudo boxes
with their labels, and the teacher's regions by rank.  Batches depend on the seed and the step
alone, so these are the ones that a run of this config has at these steps.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from rkd_jax.inputs.batching import make_sampler, train_batches
from rkd_jax.structures import Batch, GroundTruth
from rkd_jax.train.tasks import box_repeats, detector_specs, open_sources
from rkd_jax.visualize import Picture, draw_boxes, png_bytes

COLOURS = {"ground truth": "#2b8a3e", "pseudo box": "#d9480f", "region": "#9c36b5"}
PADDING = (np.array([206, 212, 218], np.uint8), np.array([241, 243, 245], np.uint8))
_INK, _GREY = "#212529", "#868e96"
_STRIPE, _GAP = 8, 12  # pixels


def draw_image(batch: Batch, row: int, names: Sequence[str], min_side: int = 384) -> Picture:
  """One image of a batch on its canvas, with all its boxes and the names of their classes."""
  canvas = np.array(batch.images[row])
  height, width = batch.sizes[row]
  y, x = np.indices(canvas.shape[:2])
  stripes = np.stack(PADDING)[(y + x) // _STRIPE % 2]
  inside = ((y < height) & (x < width))[..., None]
  boxes, labels, kinds, masks = [], [], [], []

  def add(kind: str, own, texts: Sequence[str]):
    boxes.extend(own.boxes[row][own.valid[row]])
    labels.extend(texts)
    kinds.extend([kind] * len(texts))

  if batch.ground_truth is not None:
    truth = batch.ground_truth
    add("ground truth", truth, [names[c] for c in truth.classes[row][truth.valid[row]]])
    masks = _masks(truth, row, canvas.shape[:2])
  if batch.pseudo_boxes is not None:
    pseudo = batch.pseudo_boxes
    add("pseudo box", pseudo, [names[c] for c in pseudo.classes[row][pseudo.valid[row]]])
  if batch.regions is not None:
    count = int(batch.regions.valid[row].sum())
    add("region", batch.regions, [str(rank + 1) for rank in range(count)])
  if masks:
    empty = coco_mask.encode(np.zeros(canvas.shape[:2], np.uint8, order="F"))
    masks += [empty] * (len(boxes) - len(masks))
  return draw_boxes(
    np.where(inside, canvas, stripes),
    np.array(boxes, np.float32).reshape(-1, 4),
    labels,
    [COLOURS[kind] for kind in kinds],
    min_side,
    masks or None,
  )


def draw_batch(batch: Batch, names: Sequence[str], title: str, cell: int = 640) -> Picture:
  """All images of a batch, each under its id and sizes, below a title and the legend."""
  present = {
    "ground truth": batch.ground_truth,
    "pseudo box": batch.pseudo_boxes,
    "region": batch.regions,
  }
  pictures = []
  for row in range(len(batch.images)):
    size, original = (" x ".join(map(str, s[row])) for s in (batch.sizes, batch.original_sizes))
    picture = Image.fromarray(draw_image(batch, row, names, min_side=cell // 2))
    picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    text = f"image {batch.image_ids[row]}: {original} as {size}"
    pictures.append(_below_line([(text, _INK)], np.asarray(picture)))
  legend = [(kind, COLOURS[kind]) for kind, own in present.items() if own is not None]
  canvas = " x ".join(map(str, batch.images.shape[1:3]))
  parts = [(f"{title}, canvas {canvas}", _INK), *legend, ("padding (hatched)", _GREY)]
  return _below_line(parts, _grid(pictures))


def show(config: ml_collections.ConfigDict, output: str, step: int, steps: int, cell: int) -> None:
  """Writes the sheets of the steps step .. step + steps - 1.

  Raises:
    ValueError: not a detector's config, or a batch cannot be made.
  """
  if config.task != "detector":
    raise ValueError(
      f"The config trains task {config.task!r}; only batches of detectors are drawn."
    )
  sources, specs = open_sources(config), detector_specs(config)
  repeats = box_repeats(config, sources)
  sampler = make_sampler(config.seed, config.data.schedule, sources, specs, repeats)
  folder = Path(output)
  folder.mkdir(parents=True, exist_ok=True)
  batches = train_batches(
    sources, specs, sampler, step, step + steps, threads=0, skip_bad_images=config.skip_bad_images
  )
  for number, kind, batch in batches:
    sheet = draw_batch(batch, sources[kind].class_names, f"step {number}, {kind} batch", cell)
    path = folder / f"step{number:07d}_{kind}.png"
    path.write_bytes(png_bytes(sheet))
    print(path)


def _masks(truth: GroundTruth, row: int, size: tuple[int, int]) -> list[dict]:
  """Run lengths of the polygons of each valid instance."""
  if truth.vertices is None:
    return []
  masks = []
  for index in np.flatnonzero(truth.valid[row]):
    vertices, owners = truth.vertices[row, index], truth.owners[row, index]
    polygons = [vertices[owners == i].ravel().tolist() for i in range(owners.max() + 1)]
    masks.append(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))
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
  width = picture.shape[1]
  space = "   "
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


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(
      f"Unexpected argument {argv[1]!r}; settings are given as --config.key=value."
    )
  logging.set_verbosity(logging.WARNING)
  given = flags.FLAGS
  show(given.config, given.output, given.step, given.steps, given.cell)


def _define_flags():
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("output", None, "Folder for the sheets.")
  flags.DEFINE_integer("step", 0, "First step to draw.", lower_bound=0)
  flags.DEFINE_integer("steps", 2, "How many steps.", lower_bound=1)
  flags.DEFINE_integer("cell", 640, "Pixels an image gets on its sheet.", lower_bound=64)
  flags.mark_flags_as_required(["config", "output"])


if __name__ == "__main__":
  # Here, since a program that imports `show` has flags of the same names.
  _define_flags()
  app.run(main)
