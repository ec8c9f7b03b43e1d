"""Figures of the report: similarity matrices of region embeddings and training curves.

They are RGB uint8 arrays, made without global plotting state.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from rkd_jax.ops.host import unit
from rkd_jax.pictures.draw import Picture

CURVES = ("loss", "cls", "box", "rpn_cls", "rkd_l1", "rkd_irm", "pms")
_RUN_COLOURS = ("#495057", "#1f6fd6", "#d9480f", "#2b8a3e", "#9c36b5", "#b08900", "#0b7285")
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


def curves_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Picture:
  """Training curves: one panel per kind and metric of `CURVES`, one line per run.

  `runs` are the records of each, as `read_metrics` gives them.

  Raises:
    ValueError: no record has such a metric.
  """
  curves = _collect_curves(runs)
  if not curves:
    raise ValueError(f"no record of {list(runs)} has a metric to draw among {CURVES}")
  columns = min(3, len(curves))
  rows = math.ceil(len(curves) / columns)
  figure = Figure(figsize=(4.2 * columns, 2.8 * rows + 0.6))
  figure.set_layout_engine(ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  colours = {run: _RUN_COLOURS[i % len(_RUN_COLOURS)] for i, run in enumerate(runs)}
  for axis, ((kind, key), by_run) in zip(axes, curves.items(), strict=False):
    for run, points in by_run.items():
      steps, values = np.array(points, np.float64).T
      if len(steps) > 20:
        axis.plot(steps, values, color=colours[run], alpha=0.18, linewidth=0.8)
        axis.plot(steps, _smooth(values), color=colours[run], linewidth=1.6)
      else:
        axis.plot(steps, values, "o-", color=colours[run], markersize=3.5)
    axis.set_title(f"{kind} · {key}" if kind else key, fontsize=10, color=_INK)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
  for axis in axes[len(curves) :]:
    axis.set_visible(False)
  figure.supxlabel("step", fontsize=9)
  drawn = [run for run in runs if any(run in by_run for by_run in curves.values())]
  lines = [Line2D([], [], color=colours[run], linewidth=2) for run in drawn]
  style = dict(loc="outside upper center", ncols=min(len(drawn), 5), frameon=False, fontsize=9)
  figure.legend(lines, drawn, **style)
  return _render(figure)


def _collect_curves(
  runs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[tuple[str, str], dict[str, list[tuple[int, float]]]]:
  """(kind, metric) to run to its (step, value) points, the panels of a kind together."""
  curves: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
  for run, records in runs.items():
    for record in records:
      for key, value in record.items():
        if key in CURVES:
          panel = curves.setdefault((record.get("kind", ""), key), {})
          panel.setdefault(run, []).append((record["step"], value))
  kinds = list(dict.fromkeys(kind for kind, _ in curves))
  return {panel: curves[panel] for panel in sorted(curves, key=lambda p: kinds.index(p[0]))}


def _smooth(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
  """Mean over a window of a 30th of the curve on each side, shorter at its ends."""
  window = np.ones(1 + 2 * max(1, len(values) // 30))
  counts = np.convolve(np.ones(len(values)), window, "same")
  return np.convolve(values, window, "same") / counts


def _render(figure: Figure) -> Picture:
  figure.set_dpi(110)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
