"""The demo's figure of similarity matrices of region embeddings, and their arithmetic.

It is an RGB uint8 array, made without global plotting state.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rkd_jax.ops.host import unit
from rkd_jax.pictures.draw import Picture

_INK = "#212529"


def class_similarities(
  embeddings: Float[np.ndarray, "n d"],
  classes: Int[np.ndarray, "n"],
  selected: Sequence[int],
) -> Float[np.ndarray, "c c"]:
  """Cosines between the mean region embeddings of the selected classes, IRM's matrix by class.

  Regions are normalised before the mean, so that none counts more than another, and the mean after
  it.  Rows and columns of a class without a region are NaN (drawn grey).
  """
  embeddings = np.asarray(embeddings, np.float64)
  if not np.isfinite(embeddings).all():
    raise ValueError("region embeddings are not all finite; check the checkpoint")
  embeddings = unit(embeddings)
  means = np.full((len(selected), embeddings.shape[1]), np.nan)
  for row, index in enumerate(selected):
    members = embeddings[np.asarray(classes) == index]
    if len(members):
      means[row] = unit(members.mean(axis=0))
  return (means @ means.T).astype(np.float32)


def agreement(a: Float[np.ndarray, "c c"], b: Float[np.ndarray, "c c"]) -> float | None:
  """Pearson correlation off the diagonal, NaN left out; None of constants or less than 3 pairs."""
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

  The titles of all but the first (CLIP's) say how well they agree with it (`agreement`).
  """
  for title, matrix in matrices.items():
    if np.shape(matrix) != (len(names), len(names)):
      raise ValueError(f"{title}: matrix {np.shape(matrix)} for {len(names)} class names")
  side = max(3.2, 0.2 * len(names) + 1.2)
  figure = Figure(figsize=(side * len(matrices) + 2.2, side + 1.7), layout="constrained")
  axes = figure.subplots(1, len(matrices), squeeze=False)[0]
  off_diagonal = ~np.eye(len(names), dtype=bool)
  values = np.concatenate([matrix[off_diagonal] for matrix in matrices.values()])
  low = min([0.99, *values[np.isfinite(values)]])
  reference, expected = next(iter(matrices.items()))
  for column, (axis, (title, matrix)) in enumerate(zip(axes, matrices.items(), strict=True)):
    axis.set_facecolor("#ced4da")
    heat = axis.imshow(matrix, cmap="viridis", vmin=low, vmax=1.0)
    shared = agreement(expected, matrix) if column else None
    note = "" if shared is None else f"agreement with {reference}: r = {shared:.2f}"
    axis.set_title(f"{title}\n{note}", fontsize=10, color=_INK)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names if column == 0 else [""] * len(names), fontsize=7)
    axis.tick_params(length=0)
  figure.colorbar(heat, ax=list(axes), label="cosine", shrink=0.7)
  return _render(figure)


def _render(figure: Figure) -> Picture:
  figure.set_dpi(110)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
