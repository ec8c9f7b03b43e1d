"""A sheet of small pictures in named rows."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rkd_jax.pictures import fonts
from rkd_jax.pictures.draw import Picture

_GAP = 6  # pixels


def sheet(rows: Sequence[tuple[str, Sequence[Picture]]], cell: int, columns: int) -> Picture:
  """Each row is a line of text above its pictures, each scaled to fit a square of `cell` pixels.

  Pictures beyond the number of columns are left out.  Raises ValueError: there is no row.
  """
  if not rows:
    raise ValueError("a sheet needs at least one row.")
  size = max(11, cell // 7)
  line = round(1.7 * size)
  width = columns * (cell + _GAP) + _GAP
  height = len(rows) * (line + cell + _GAP)
  canvas = Image.new("RGB", (width, height), "white")
  draw = ImageDraw.Draw(canvas)
  for number, (text, pictures) in enumerate(rows):
    top = number * (line + cell + _GAP)
    shown = fonts.shortened(text, size, width - 2 * _GAP)
    fonts.draw(draw, (_GAP, top + 0.5 * line + 0.35 * size), shown, size, "black")
    for column, picture in enumerate(pictures[:columns]):
      image = Image.fromarray(picture)
      scale = cell / max(image.size)
      fitted = image.resize([max(round(side * scale), 1) for side in image.size])
      canvas.paste(fitted, (_GAP + column * (cell + _GAP), top + line))
  return np.asarray(canvas)
