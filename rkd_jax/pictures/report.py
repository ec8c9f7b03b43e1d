"""The result on one page: component table, predictions, similarities, curves.

The page is one HTML file with everything inside it (pictures as PNG data URIs,
inline CSS, no scripts), so that it can be mailed or archived as it is.
"""

import base64
import html
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rkd_jax.pictures import draw, figures

_PAGE = Path(__file__).with_suffix(".html")

METRICS = ("AP50_novel", "AP50_base", "AP50_all")
_HEADINGS = ("novel", "base", "all")


@dataclass(frozen=True)
class Row:
  """A row of the component table.

  Args:
    method: e.g. 'RKD + ILS'.
    runs: one result per seed, with the keys of `METRICS` in percent (None where a
      metric is not defined); a single run has no spread.
    control: a control experiment; set apart, and never the best.
  """

  method: str
  runs: Sequence[Mapping[str, Any]]
  control: bool = False

  def values(self, metric: str) -> list[float]:
    """The metric of every seed that has it.

    Raises:
      ValueError: a run lacks the key.
    """
    for run in self.runs:
      if metric not in run:
        raise ValueError(f"row {self.method!r}: a result lacks {metric!r}, has {sorted(run)}")
    return [float(run[metric]) for run in self.runs if run[metric] is not None]


@dataclass(frozen=True)
class Prediction:
  """Detections of one stage on one image: XYXY in its pixels, class columns."""

  boxes: Float[np.ndarray, "n 4"]
  scores: Float[np.ndarray, "n"]
  classes: Sequence[int]


def format_table(rows: Sequence[Row]) -> str:
  """The component table for the terminal; `*` marks the best of a column."""
  best = _best(rows)
  lines = [("method", *(f"{heading} " for heading in _HEADINGS))]
  for row in rows:
    cells = [
      _cell(row, metric) + ("*" if (row.method, metric) in best else " ") for metric in METRICS
    ]
    lines.append((row.method + (" (control)" if row.control else ""), *cells))
  widths = [max(len(line[column]) for line in lines) for column in range(1 + len(METRICS))]
  text = [
    "  ".join(
      [line[0].ljust(widths[0])]
      + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    ).rstrip()
    for line in lines
  ]
  rule = "-" * (sum(widths) + 2 * len(METRICS))
  return "\n".join([f"AP50 (%) {_spread_note(rows)}".strip(), rule, text[0], rule, *text[1:], rule])


def prediction_row(
  image: UInt8[np.ndarray, "h w 3"],
  gt_boxes: Float[np.ndarray, "g 4"],
  gt_classes: Sequence[int],
  stages: Mapping[str, Prediction],
  class_names: Sequence[str],
  novel: Sequence[str],
  min_score: float = 0.3,
  max_boxes: int = 12,
) -> dict[str, UInt8[np.ndarray, "h2 w2 3"]]:
  """Pictures of one image for the report: the ground truth, then each stage."""
  is_novel = [name in set(novel) for name in class_names]

  def described(classes: Sequence[int]) -> tuple[list[str], list[bool]]:
    return [class_names[c] for c in classes], [is_novel[c] for c in classes]

  names, flags = described(gt_classes)
  pictures = {"Ground truth": draw.draw_boxes(image, gt_boxes, names, draw.novel_colours(flags))}
  for stage, found in stages.items():
    names, flags = described(found.classes)
    pictures[stage] = draw.draw_detections(
      image, found.boxes, found.scores, names, flags, min_score=min_score, max_boxes=max_boxes
    )
  return pictures


def write_report(
  path: str | os.PathLike,
  title: str,
  rows: Sequence[Row],
  curves: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
  predictions: Sequence[Mapping[str, UInt8[np.ndarray, "h w 3"]]] = (),
  similarities: Mapping[str, Float[np.ndarray, "c c"]] | None = None,
  similarity_names: Sequence[str] = (),
  notes: Sequence[str] = (),
  curve_keys: Sequence[str] | None = None,
) -> None:
  """Writes the page; sections without content are left out.

  Args:
    path: the HTML file; its folder is made if absent.
    title: heading of the page.
    rows: the component table.
    curves: stage to the records of its metrics file (`read_metrics`).
    predictions: one mapping per image, caption to picture (`prediction_row`).
    similarities: model to the matrix of its class-mean region embeddings
      (`figures.class_similarities`), CLIP first.
    similarity_names: the classes of these matrices.
    notes: plain-text paragraphs under the table: data, seeds, time.
    curve_keys: the metrics to draw; by default all.

  Raises:
    ValueError: there are no rows, two rows have the same name, or a result
      lacks a metric.
  """
  sections = [_table_section(rows, notes)]
  if predictions:
    sections.append(_predictions_section(predictions))
  if similarities:
    sections.append(_similarities_section(similarities, similarity_names))
  if curves:
    figure = figures.curves_figure(curves, curve_keys)
    sections.append(
      _section(
        "Training curves",
        "Faint lines are single steps, strong lines their running mean.",
        _image(figure, "training curves", "wide"),
      )
    )
  page = string.Template(_PAGE.read_text("utf-8")).substitute(
    title=html.escape(title),
    novel=draw.NOVEL_COLOUR,
    base=draw.BASE_COLOUR,
    sections="\n".join(sections),
  )
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(page, encoding="utf-8")


def _table_section(rows: Sequence[Row], notes: Sequence[str]) -> str:
  best = _best(rows)
  highest = max([1.0, *(np.mean(row.values(m)) for row in rows for m in METRICS if row.values(m))])
  body = []
  for row in rows:
    cells = []
    for metric, heading in zip(METRICS, _HEADINGS, strict=True):
      values = row.values(metric)
      width = 100 * float(np.mean(values)) / highest if values else 0.0
      text = html.escape(_cell(row, metric))
      if (row.method, metric) in best:
        text = f"<strong>{text}</strong>"
      bar = f'<span class="bar {heading}" style="width:{width:.1f}%"></span>'
      cells.append(f"<td>{text}{bar}</td>")
    kind = ' class="control"' if row.control else ""
    tag = ' <span class="tag">control</span>' if row.control else ""
    name = html.escape(row.method)
    body.append(f'<tr{kind}><th scope="row">{name}{tag}</th>{"".join(cells)}</tr>')
  headings = "".join(
    f'<th scope="col"><span class="dot {heading}"></span>{heading}</th>' for heading in _HEADINGS
  )
  table = (
    f'<div class="scroll"><table><thead><tr><th scope="col">method</th>{headings}</tr></thead>'
    f"<tbody>{''.join(body)}</tbody></table></div>"
  )
  paragraphs = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
  summary = (
    "Box AP at IoU 0.5 in percent, averaged over novel, base and all annotated classes. "
    f"The best of each column is bold. {_spread_note(rows)}"
  )
  return _section("Components", summary, f'{table}<div class="notes">{paragraphs}</div>')


def _predictions_section(predictions: Sequence[Mapping[str, np.ndarray]]) -> str:
  grids = []
  for number, pictures in enumerate(predictions, start=1):
    figures = "".join(
      f"<figure>{_image(picture, f'image {number}: {caption}')}"
      f"<figcaption>{html.escape(caption)}</figcaption></figure>"
      for caption, picture in pictures.items()
    )
    grids.append(f'<div class="grid" style="--columns:{len(pictures)}">{figures}</div>')
  legend = (
    '<span class="dot base"></span>base class &ensp;<span class="dot novel"></span>novel class'
  )
  return _section(
    "Predictions",
    "The same validation images seen by each stage. Labels give class and score.",
    f'<p class="legend">{legend}</p>{"".join(grids)}',
  )


def _similarities_section(similarities: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
  reference = next(iter(similarities))
  summary = (
    "Cosines between the mean region embeddings of the novel classes. The closer a detector's "
    f"pattern is to {reference}'s, the better its embedding space has kept the teacher's "
    "relations between classes; r is the correlation of the entries off the diagonal."
  )
  figure = figures.similarity_figure(similarities, names)
  return _section("Region similarities", summary, _image(figure, "similarity matrices", "wide"))


def _section(heading: str, summary: str, content: str) -> str:
  return (
    f"<section><h2>{html.escape(heading)}</h2>"
    f'<p class="summary">{html.escape(summary)}</p>{content}</section>'
  )


def _image(picture: UInt8[np.ndarray, "h w 3"], alt: str, kind: str = "") -> str:
  data = base64.b64encode(draw.png_bytes(picture)).decode("ascii")
  height, width = picture.shape[:2]
  image = (
    f'<img class="{kind}" width="{width}" height="{height}" alt="{html.escape(alt)}" '
    f'src="data:image/png;base64,{data}">'
  )
  return f'<div class="scroll">{image}</div>' if kind == "wide" else image


def _cell(row: Row, metric: str) -> str:
  """Mean, ± standard deviation over seeds where there are several."""
  values = row.values(metric)
  if not values:
    return "–"
  if len(values) == 1:
    return f"{values[0]:.1f}"
  return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def _best(rows: Sequence[Row]) -> set[tuple[str, str]]:
  """(method, metric) of the highest mean of each column, controls aside.

  Means that print alike share the mark; a table of one row has no best.
  """
  if not rows:
    raise ValueError("the component table needs at least one row")
  names = [row.method for row in rows]
  if len(set(names)) != len(names):
    raise ValueError(f"two rows have the same method name: {names}; give each its own")
  best = set()
  contenders = [row for row in rows if not row.control]
  if len(contenders) < 2:
    return best
  for metric in METRICS:
    means = {
      row.method: round(float(np.mean(row.values(metric))), 1)
      for row in contenders
      if row.values(metric)
    }
    best |= {(name, metric) for name, mean in means.items() if mean == max(means.values())}
  return best


def _spread_note(rows: Sequence[Row]) -> str:
  seeds = max(len(row.runs) for row in rows)
  return f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else ""
