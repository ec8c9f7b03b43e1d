"""The result on one page: component table, predictions, similarities, curves.

It is one HTML file with everything inside (pictures as PNG data URIs, inline CSS, no scripts).
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
from jaxtyping import Float, Int

from rkd_jax.pictures import draw, figures

_PAGE = Path(__file__).with_suffix(".html")

METRICS = ("AP50_novel", "AP50_base", "AP50_all")
_HEADINGS = ("novel", "base", "all")
# Of a stage's detections on an image, those that are drawn.
_MIN_SCORE, _MOST = 0.5, 12

Picture = draw.Picture
# Boxes (XYXY in pixels of the image), scores and classes, best first.
Found = tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n"], Int[np.ndarray, "n"]]


@dataclass(frozen=True)
class Row:
  """A row of the component table: a method such as 'RKD + ILS' with one result per seed.

  Results have the keys of `METRICS`, in percent, None where a metric is not defined.  A control
  experiment is set apart, and never the best.
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


def format_table(rows: Sequence[Row]) -> str:
  """The component table for the terminal; `*` marks the best of a column."""
  best = _best(rows)
  lines = [["method", *(f"{heading} " for heading in _HEADINGS)]]
  for row in rows:
    marks = ["*" if (row.method, metric) in best else " " for metric in METRICS]
    cells = [_cell(row, metric) + mark for metric, mark in zip(METRICS, marks, strict=True)]
    lines.append([row.method + (" (control)" if row.control else ""), *cells])
  first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
  layout = f"{{:{first}}}" + "".join(f"  {{:>{width}}}" for width in others)
  head, *body = (layout.format(*line).rstrip() for line in lines)
  rule = "-" * len(layout.format(*lines[0]))
  return "\n".join([f"AP50 (%) {_spread_note(rows)}".strip(), rule, head, rule, *body, rule])


def prediction_row(
  image: Picture,
  gt_boxes: Float[np.ndarray, "g 4"],
  gt_classes: Int[np.ndarray, "g"],
  stages: Mapping[str, Found],
  class_names: Sequence[str],
  novel: Sequence[str],
) -> dict[str, Picture]:
  """Pictures of one image for the report: the ground truth, then the best of each stage."""

  def described(classes: Sequence[int]) -> tuple[list[str], list[bool]]:
    names = [class_names[number] for number in classes]
    return names, [name in novel for name in names]

  names, flags = described(gt_classes)
  pictures = {"Ground truth": draw.draw_boxes(image, gt_boxes, names, draw.novel_colours(flags))}
  for stage, (boxes, scores, classes) in stages.items():
    shown = np.flatnonzero(scores >= _MIN_SCORE)[:_MOST]
    names, flags = described(classes[shown])
    pictures[stage] = draw.draw_detections(image, boxes[shown], scores[shown], names, flags)
  return pictures


def write_report(
  path: str | os.PathLike,
  title: str,
  rows: Sequence[Row],
  curves: Mapping[str, Sequence[Mapping[str, Any]]],
  predictions: Sequence[Mapping[str, Picture]],
  similarities: Mapping[str, Float[np.ndarray, "c c"]],
  similarity_names: Sequence[str],
  notes: Sequence[str],
) -> None:
  """Writes the page with the component table of `rows`; its folder is made if absent.

  Args:
    curves: stage to the records of its metrics file (`read_metrics`).
    predictions: one mapping per image, caption to picture (`prediction_row`).
    similarities: model to its matrix (`figures.class_similarities`), CLIP first.
    similarity_names: the classes of these matrices.
    notes: plain-text paragraphs under the table: data, seeds, time.

  Raises:
    ValueError: there are no rows, two rows have the same name, or a result
      lacks a metric.
  """
  sections = [
    _table_section(rows, notes),
    _predictions_section(predictions),
    _similarities_section(similarities, similarity_names),
    _section(
      "Training curves",
      "Faint lines are single steps, strong lines their running mean.",
      _image(figures.curves_figure(curves), "training curves", "wide"),
    ),
  ]
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
      text = f"<strong>{text}</strong>" if (row.method, metric) in best else text
      bar = f'<span class="bar {heading}" style="width:{width:.1f}%"></span>'
      cells.append(f"<td>{text}{bar}</td>")
    kind = ' class="control"' if row.control else ""
    tag = ' <span class="tag">control</span>' if row.control else ""
    name = html.escape(row.method)
    body.append(f'<tr{kind}><th scope="row">{name}{tag}</th>{"".join(cells)}</tr>')
  headings = "".join(
    f'<th scope="col"><span class="dot {heading}"></span>{heading}</th>' for heading in _HEADINGS
  )
  head = f'<thead><tr><th scope="col">method</th>{headings}</tr></thead>'
  table = f'<div class="scroll"><table>{head}<tbody>{"".join(body)}</tbody></table></div>'
  paragraphs = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
  summary = (
    "Box AP at IoU 0.5 in percent, averaged over novel, base and all annotated classes. "
    f"The best of each column is bold. {_spread_note(rows)}"
  )
  return _section("Components", summary, f'{table}<div class="notes">{paragraphs}</div>')


def _predictions_section(predictions: Sequence[Mapping[str, Picture]]) -> str:
  grids = []
  for number, pictures in enumerate(predictions, start=1):
    figures = "".join(
      f"<figure>{_image(picture, f'image {number}: {caption}')}"
      f"<figcaption>{html.escape(caption)}</figcaption></figure>"
      for caption, picture in pictures.items()
    )
    grids.append(f'<div class="grid" style="--columns:{len(pictures)}">{figures}</div>')
  dots = [f'<span class="dot {kind}"></span>{kind} class' for kind in ("base", "novel")]
  return _section(
    "Predictions",
    "The same validation images seen by each stage. Labels give class and score.",
    f'<p class="legend">{" &ensp;".join(dots)}</p>{"".join(grids)}',
  )


def _similarities_section(similarities: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
  summary = (
    "Cosines between the mean region embeddings of the novel classes. The closer a detector's "
    f"pattern is to {next(iter(similarities))}'s, the better its embedding space has kept the "
    "teacher's relations between classes; r is the correlation of the entries off the diagonal."
  )
  figure = figures.similarity_figure(similarities, names)
  return _section("Region similarities", summary, _image(figure, "similarity matrices", "wide"))


def _section(heading: str, summary: str, content: str) -> str:
  return (
    f"<section><h2>{html.escape(heading)}</h2>"
    f'<p class="summary">{html.escape(summary)}</p>{content}</section>'
  )


def _image(picture: Picture, alt: str, kind: str = "") -> str:
  data = base64.b64encode(draw.png_bytes(picture)).decode("ascii")
  height, width = picture.shape[:2]
  size = f'width="{width}" height="{height}"'
  source = f"data:image/png;base64,{data}"
  image = f'<img class="{kind}" {size} alt="{html.escape(alt)}" src="{source}">'
  return f'<div class="scroll">{image}</div>' if kind == "wide" else image


def _cell(row: Row, metric: str) -> str:
  """Mean, ± standard deviation over seeds where there are several."""
  values = row.values(metric)
  if not values:
    return "–"
  spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
  return f"{np.mean(values):.1f}{spread}"


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
  for metric in METRICS if len(contenders) > 1 else ():
    values = {row.method: row.values(metric) for row in contenders}
    means = {name: round(float(np.mean(own)), 1) for name, own in values.items() if own}
    best |= {(name, metric) for name, mean in means.items() if mean == max(means.values())}
  return best


def _spread_note(rows: Sequence[Row]) -> str:
  seeds = max(len(row.runs) for row in rows)
  return f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else ""
