"""The table of a recipe: what is finished beside the paper's numbers, as JSON, Markdown and a page.

What is in it is read from the runs' folders, so that several processes that share a root write the
same table.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rkd_jax.files import storage
from rkd_jax.pictures import components
from rkd_jax.pictures.page import write_page
from rkd_jax.recipe.order import FILE, Order, evaluation, read_object
from rkd_jax.recipe.rows import Row
from rkd_jax.report.build import build
from rkd_jax.report.examination import open_run

# By name of a row, what each seed that is finished was evaluated to.
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]


def statistics(values: Sequence[float | None]) -> dict[str, Any]:
  """Every seed's value, and of those that have one mean, sample standard deviation and median.

  The deviation ('spread') of one value is None, and so is everything of none.
  """
  own = [value for value in values if value is not None]
  return {
    "seeds": [*values],
    "mean": float(np.mean(own)) if own else None,
    "spread": float(np.std(own, ddof=1)) if len(own) > 1 else None,
    "median": float(np.median(own)) if own else None,
  }


def collect(order: Order) -> Results:
  """Results of the rows asked for and of all others that are finished, in the recipe's order.

  Seeds are those asked for, and those of which the root's table has a row.
  """
  file = storage.path(order.root) / FILE
  rows = read_object(file).get("rows", {}).values() if file.exists() else ()
  seeds = sorted({*order.seeds, *(seed for row in rows for seed in row["seeds"])})
  found = {}
  for row in order.recipe.rows:
    own = {seed: evaluation(order, row, seed) for seed in seeds}
    found[row.name] = {seed: results for seed, results in own.items() if results is not None}
  asked = {row.name for row in order.rows}
  return {name: own for name, own in found.items() if own or name in asked}


def content(order: Order, results: Results) -> dict[str, Any]:
  """What recipe.json holds: for each row its seeds, folders, steps, and statistics by metric."""
  metrics, rows = order.recipe.columns.metrics, {}
  for row, own in _by_row(order, results):
    paper = row.paper or (None,) * len(metrics)
    rows[row.name] = {
      "title": row.title,
      "control": row.control,
      "seeds": list(own),
      "folders": [order.folder(row, seed) for seed in own],
      "steps": [run.get("step") for run in own.values()],
      "metrics": {
        metric: statistics([run.get(metric) for run in own.values()]) | {"paper": published}
        for metric, published in zip(metrics, paper, strict=True)
      },
    }
  about = {"recipe": order.recipe.name, "settings": dict(order.settings)}
  return {**about, "arguments": order.arguments, "rows": rows}


def rows_of(order: Order, results: Results) -> list[components.Row]:
  """The rows of a component table; those that nothing is finished of have a '–'."""
  none = dict.fromkeys(order.recipe.columns.metrics)
  return [
    components.Row(row.title, [none | dict(run) for run in own.values()], row.control, row.paper)
    for row, own in _by_row(order, results)
  ]


def _by_row(order: Order, results: Results) -> list[tuple[Row, Mapping[int, Mapping[str, Any]]]]:
  return [(order.recipe.row(name), own) for name, own in results.items()]


def tables_of(order: Order, results: Results) -> dict[str, list[components.Row]]:
  """The rows of each table, by its title; those that stand beside others are in several."""
  rows = dict(zip(results, rows_of(order, results), strict=True))
  tables = order.recipe.tables(results).items()
  return {title: [rows[name] for name in names] for title, names in tables}


def markdown(order: Order, results: Results) -> str:
  """The tables in Markdown: means with deviations, the paper's numbers, and every seed."""
  columns = order.recipe.columns
  spread = "Mean ± sample standard deviation over seeds. " if _several(results) else ""
  parts = [f"# {order.recipe.title}", f"{columns.summary} {spread}".strip()]
  for title, rows in tables_of(order, results).items():
    parts += [f"## {title}", _markdown_table(rows, columns)]
  return "\n\n".join(parts) + "\n"


def _markdown_table(rows: Sequence[components.Row], columns: components.Columns) -> str:
  metrics, first = columns.metrics, columns.headings[0]
  head = ["", *columns.headings, *components.paper_headings(rows, columns), f"{first}, each seed"]
  lines = [head, ["---"] * len(head)]
  for row in rows:
    seeds = [run[metrics[0]] for run in row.runs]
    each = ", ".join("–" if value is None else f"{value:.1f}" for value in seeds)
    cells = [components.cell(row, metric) for metric in metrics]
    name = f"control: {row.method}" if row.control else row.method
    lines.append([name, *cells, *components.paper_cells(row, rows, columns), each])
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def printed(order: Order, results: Results) -> str:
  """The tables for the terminal."""
  tables = tables_of(order, results).items()
  own = (f"{title}\n{components.format_table(r, order.recipe.columns)}" for title, r in tables)
  return "\n\n".join(own)


def write(order: Order, results: Results) -> None:
  """Writes recipe.json, recipe.md and recipe.html, the table alone, below the root."""
  folder = storage.path(order.root)
  storage.write(folder / FILE, json.dumps(content(order, results), indent=2) + "\n")
  storage.write(folder / "recipe.md", markdown(order, results))
  write_page(folder / "recipe.html", order.recipe.title, _sections(order, results))


def write_report(order: Order, results: Results, images: int) -> None:
  """Writes recipe.html with the table and what can be said of the first seed's runs.

  Of each run the first so many images are looked at; see `report.build`.
  """
  runs = [
    open_run(order.folder(row, next(iter(own))), row.title)
    for row, own in _by_row(order, results)
    if own and row.trains
  ]
  output = f"{order.root}/recipe.html"
  build(runs, output, order.recipe.title, images, before=_sections(order, results))


def _sections(order: Order, results: Results) -> list[str]:
  notes = []
  if order.settings:
    changed = ", ".join(f"{key}={value}" for key, value in order.settings.items())
    notes.append(f"Settings of all rows that are not those of the configs: {changed}.")
  if order.arguments:
    notes.append(f"Arguments of all configs: {order.arguments}.")
  if missing := [row.title for row, own in _by_row(order, results) if not own]:
    notes.append(f"Not finished yet: {', '.join(missing)}.")
  tables = tables_of(order, results).items()
  columns, last = order.recipe.columns, len(tables) - 1
  return [
    components.component_section(rows, notes if number == last else [], columns, title)
    for number, (title, rows) in enumerate(tables)
  ]


def _several(results: Results) -> bool:
  return any(len(own) > 1 for own in results.values())
