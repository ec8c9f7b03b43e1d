"""Sheets of the best boxes of each class, for people to look at."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from rkd_jax.pictures.draw import NOVEL_COLOUR, Picture, draw_boxes
from rkd_jax.pictures.sheets import sheet
from rkd_jax.pseudo_labels.candidates import Candidates
from rkd_jax.records.decoding import BadImageError
from rkd_jax.records.joined import Joined
from rkd_jax.records.sources import open_image

CELL, COLUMNS, ROWS = 112, 8, 30
# A picture shows as much beside its box, in parts of the box.
_AROUND = 0.35


def sheets(
  sources: Sequence[Joined], found: Sequence[Candidates], scores: Sequence[np.ndarray]
) -> Iterator[Picture]:
  """The best `COLUMNS` boxes of each class with what is around them, `ROWS` classes a sheet.

  Images that cannot be read are left out.
  """
  names = sources[0].class_names
  for start in range(0, len(found), ROWS):
    rows = []
    for own, score in zip(found[start : start + ROWS], scores[start:]):
      pictures = []
      for row in range(min(len(own), COLUMNS)):
        source = sources[own.splits[row]]
        position = int(np.flatnonzero(source.index.image_ids == own.image_ids[row])[0])
        try:
          pictures.append(cut_out(open_image(source[position]), own.boxes[row]))
        except BadImageError:
          continue
      name = names[own.labels[0]]
      rows.append((f"{name}: {len(own)} boxes, {score[0]:.2f} to {score[-1]:.2f}", pictures))
    yield sheet(rows, CELL, COLUMNS)


def cut_out(image: Image.Image, box: Float[np.ndarray, "4"]) -> Picture:
  """The part of an image around a box, with the box drawn."""
  side = float(max(box[2] - box[0], box[3] - box[1]))
  corners = np.round(box + np.array([-1, -1, 1, 1]) * _AROUND * side)
  x1, y1, x2, y2 = np.clip(corners, 0, [*image.size, *image.size]).astype(int).tolist()
  x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
  part = np.asarray(image.crop((x1, y1, x2, y2)).convert("RGB"))
  own = np.asarray(box, np.float32) - np.array([x1, y1, x1, y1], np.float32)
  return draw_boxes(part, own[None], [""], [NOVEL_COLOUR], min_side=CELL)
