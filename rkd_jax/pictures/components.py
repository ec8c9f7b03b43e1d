"""Sections about experiments side by side: the component table, and similarities of regions."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from rkd_jax.pictures import charts, figures
from rkd_jax.pictures.page import image, notes, section


@dataclass(frozen=True)
class Columns:
  """What a component table shows of results: metrics in percent, and how they are called.

  Attributes:
    metrics: keys of the results.
    headings: of the columns.
    kinds: whose colours the columns have: novel, base or all.
    unit: what the numbers are, for the terminal.
    summary: the same as a sentence.
  """

  metrics: tuple[str, ...]
  headings: tuple[str, ...]
  kinds: tuple[str, ...]
  unit: str
  summary: str


AP50 = Columns(
  ("AP50_novel", "AP50_base", "AP50_all"),
  ("novel", "base", "all"),
  ("novel", "base", "all"),
  "AP50 (%)",
  "Box AP at IoU 0.5 in percent, averaged over novel, base and all annotated classes.",
)
MASK_AP = Columns(
  ("mask_APr", "mask_APc", "mask_APf", "mask_AP"),
  ("rare", "common", "frequent", "all"),
  ("novel", "base", "base", "all"),
  "mask AP (%)",
  "Mask AP over IoU 0.5 to 0.95 in percent, averaged over rare (novel), common, frequent and all "
  "classes.",
)
METRICS = AP50.metrics


@dataclass(frozen=True)
class Row:
  """A row of the component table: a method such as 'RKD + ILS' with one result per seed.

  Results have the keys of the table's metrics, in percent, None where a metric is not defined.  A
  control experiment is set apart, and never the best.  `paper` are published numbers, one for each
  column, which get columns of their own.
  """

  method: str
  runs: Sequence[Mapping[str, Any]]
  control: bool = False
  paper: Sequence[float] | None = None

  def values(self, metric: str) -> list[float]:
    """The metric of every seed that has it.

    Raises:
      ValueError: a run lacks the key.
    """
    for run in self.runs:
      if metric not in run:
        raise ValueError(f"row {self.method!r}: a result lacks {metric!r}, has {sorted(run)}")
    return [float(run[metric]) for run in self.runs if run[metric] is not None]


def format_table(rows: Sequence[Row], columns: Columns = AP50) -> str:
  """The component table for the terminal; `*` marks the best of a column."""
  best, metrics = _best(rows, columns), columns.metrics
  lines = [["method", *(f"{own} " for own in columns.headings), *paper_headings(rows, columns)]]
  for row in rows:
    marks = ["*" if (row.method, metric) in best else " " for metric in metrics]
    cells = [cell(row, metric) + mark for metric, mark in zip(metrics, marks, strict=True)]
    cells += paper_cells(row, rows, columns)
    lines.append([row.method + (" (control)" if row.control else ""), *cells])
  first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
  layout = f"{{:{first}}}" + "".join(f"  {{:>{width}}}" for width in others)
  head, *body = (layout.format(*line).rstrip() for line in lines)
  rule = "-" * len(layout.format(*lines[0]))
  return "\n".join([f"{columns.unit} {_spread_note(rows)}".strip(), rule, head, rule, *body, rule])


def component_section(
  rows: Sequence[Row], paragraphs: Sequence[str], columns: Columns = AP50, title: str = "Components"
) -> str:
  """The component table as a section, with plain-text paragraphs below: data, seeds, time.

  Raises:
    ValueError: there are no rows, two rows have the same name, or a result lacks a metric.
  """
  best = _best(rows, columns)
  own = (row.values(metric) for row in rows for metric in columns.metrics)
  highest = max([1.0, *(np.mean(values) for values in own if values)])
  body = []
  for row in rows:
    cells = []
    for metric, kind in zip(columns.metrics, columns.kinds, strict=True):
      values = row.values(metric)
      text = html.escape(cell(row, metric))
      text = f"<strong>{text}</strong>" if (row.method, metric) in best else text
      width = 100 * float(np.mean(values)) / highest if values else None
      cells.append(charts.bar_cell(text, width, kind))
    tag = ' <span class="tag">control</span>' if row.control else ""
    cells += map(html.escape, paper_cells(row, rows, columns))
    body.append([f"{html.escape(row.method)}{tag}", *cells])
  names = zip(columns.headings, columns.kinds, strict=True)
  head = ["method", *(f'<span class="dot {kind}"></span>{name}' for name, kind in names)]
  head += paper_headings(rows, columns)
  summary = f"{columns.summary} The best of each column is bold. {_spread_note(rows)}"
  return section(title, summary, charts.table(head, body) + notes(paragraphs))


def similarity_section(
  similarities: Mapping[str, Float[np.ndarray, "c c"]], names: Sequence[str]
) -> str:
  """Similarity matrices of models (`figures.class_similarities`), CLIP's first, as a section."""
  summary = (
    "Cosines between the mean region embeddings of the novel classes. The closer a detector's "
    f"pattern is to {next(iter(similarities))}'s, the better its embedding space has kept the "
    "teacher's relations between classes; r is the correlation of the entries off the diagonal."
  )
  figure = figures.similarity_figure(similarities, names)
  return section("Region similarities", summary, image(figure, "similarity matrices", "wide"))


def paper_headings(rows: Sequence[Row], columns: Columns) -> list[str]:
  """Those of the columns with published numbers; none where no row has any."""
  has_paper = any(row.paper is not None for row in rows)
  return [f"{name}, paper" for name in columns.headings] if has_paper else []


def paper_cells(row: Row, rows: Sequence[Row], columns: Columns) -> list[str]:
  """The published numbers of a row beside those of others, '–' where it has none."""
  published = row.paper or [None] * len(columns.metrics)
  shown = ["–" if number is None else f"{number:.1f}" for number in published]
  return shown if paper_headings(rows, columns) else []


def cell(row: Row, metric: str) -> str:
  """Mean, ± standard deviation over seeds where there are several."""
  values = row.values(metric)
  if not values:
    return "–"
  spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
  return f"{np.mean(values):.1f}{spread}"


def _best(rows: Sequence[Row], columns: Columns) -> set[tuple[str, str]]:
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
  for metric in columns.metrics if len(contenders) > 1 else ():
    values = {row.method: row.values(metric) for row in contenders}
    means = {name: round(float(np.mean(own)), 1) for name, own in values.items() if own}
    best |= {(name, metric) for name, mean in means.items() if mean == max(means.values())}
  return best


def _spread_note(rows: Sequence[Row]) -> str:
  seeds = max(len(row.runs) for row in rows)
  return f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else ""
