"""The demo's own sections of its report: the component table, and similarities of regions."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from rkd_jax.pictures import charts, figures
from rkd_jax.pictures.page import image, notes, section

METRICS = ("AP50_novel", "AP50_base", "AP50_all")
_HEADINGS = ("novel", "base", "all")


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


def component_section(rows: Sequence[Row], paragraphs: Sequence[str]) -> str:
  """The component table as a section, with plain-text paragraphs below: data, seeds, time.

  Raises:
    ValueError: there are no rows, two rows have the same name, or a result lacks a metric.
  """
  best = _best(rows)
  highest = max([1.0, *(np.mean(row.values(m)) for row in rows for m in METRICS if row.values(m))])
  body = []
  for row in rows:
    cells = []
    for metric, heading in zip(METRICS, _HEADINGS, strict=True):
      values = row.values(metric)
      text = html.escape(_cell(row, metric))
      text = f"<strong>{text}</strong>" if (row.method, metric) in best else text
      width = 100 * float(np.mean(values)) / highest if values else None
      cells.append(charts.bar_cell(text, width, heading))
    tag = ' <span class="tag">control</span>' if row.control else ""
    body.append([f"{html.escape(row.method)}{tag}", *cells])
  head = ["method", *(f'<span class="dot {own}"></span>{own}' for own in _HEADINGS)]
  summary = (
    "Box AP at IoU 0.5 in percent, averaged over novel, base and all annotated classes. "
    f"The best of each column is bold. {_spread_note(rows)}"
  )
  return section("Components", summary, charts.table(head, body) + notes(paragraphs))


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
