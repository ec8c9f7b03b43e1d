"""The sections of a report that are numbers: table, curves, classes, errors, sizes, proposals."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rkd_jax.evaluation.calibration.calibrator import Calibrator
from rkd_jax.evaluation.calibration.points import PRECISIONS, Curve, operating_points
from rkd_jax.evaluation.calibration.scaling import BINS, compared, reliability
from rkd_jax.evaluation.diagnosis import SIZES, TIDE, Diagnosis
from rkd_jax.pictures import charts
from rkd_jax.pictures.page import notes, section
from rkd_jax.records.sources import Record
from rkd_jax.report.examination import Examination, Run

# Of a step's metrics, in this order; others follow.
CURVES = ("loss", "cls", "box", "rpn_cls", "rpn_box", "rkd_l1", "rkd_irm", "pms", "mask")
_EVALUATIONS = ("AP50_novel", "AP50_base", "AP50_all", "box_AP", "box_APr", "box_APc", "box_APf")
_HIDDEN = ("pace",)
_RECALL_AT = (100, 300, 1000)
_LISTED, _MATRIX = 12, 20


@dataclass(frozen=True)
class Examined:
  """A run with what its detector says, and what that is worth.

  `results` are those of the protocol's evaluator on these images.
  """

  run: Run
  own: Examination
  records: Sequence[Record]
  diagnosis: Diagnosis
  results: Mapping[str, Any]
  curve: Curve  # of all classes together
  held_out: tuple[np.ndarray, np.ndarray, np.ndarray]  # see `Calibrator`

  @property
  def name(self) -> str:
    return self.run.name

  @property
  def groups(self) -> dict[str, Sequence[str]]:
    """Names of the classes that are averaged over: novel and base, or LVIS' three, and all."""
    source = self.run.source
    groups: dict[str, Sequence[str]]
    if self.run.federated:
      of = dict(zip(source.class_names, source.frequencies or ()))
      kinds = {"rare": "r", "common": "c", "frequent": "f"}
      groups = {kind: [n for n in of if of[n] == key] for kind, key in kinds.items()}
    else:
      groups = {"novel": source.novel, "base": source.base}
    return {**{kind: own for kind, own in groups.items() if own}, "all": self.run.evaluated}

  @property
  def marked(self) -> set[str]:
    """The classes that were not trained on: novel, or LVIS' rare ones."""
    return set(self.run.source.novel)

  @property
  def min_score(self) -> float:
    """Where F1 over all is highest; 0.5 where nothing is found."""
    best = operating_points(self.curve)["points"]["f1"]
    return 0.5 if best is None else best["score"]


def examined(run: Run, own: Examination, evaluator: Any, calibrator: Calibrator) -> Examined:
  """Evaluates and diagnoses what was found; evaluators are new ones of the run's protocol."""
  records = [run.source[int(index)] for index in own.indices]
  for record, found in zip(records, own.found):
    evaluator.add(record, found)
    calibrator.add(record, found)
  most = run.config.model.test.detections
  diagnosis = Diagnosis(records, own.found, run.source.class_names, run.evaluated, most)
  together, _ = calibrator.curves()
  held_out = calibrator.held_out()
  return Examined(run, own, records, diagnosis, evaluator.compute(), together, held_out)


def runs_table(all_runs: Sequence[Run], runs: Sequence[Examined]) -> str:
  """A row per run: its step and its APs; those without detections say why."""
  known = {own.name: own for own in runs}
  lvis = any(own.run.federated for own in runs)
  metrics = {
    **({"box_AP": "AP", "box_APr": "APr", "box_APc": "APc", "box_APf": "APf"} if lvis else {}),
    **({"box_AP50": "AP50"} if lvis else {}),
  }
  if not lvis or not all(own.run.federated for own in runs):
    metrics |= {"AP50_novel": "AP50 novel", "AP50_base": "AP50 base", "AP50_all": "AP50 all"}
    metrics |= {"AP_all": "AP all"}
  values = {m: [v for own in runs if (v := own.results.get(m)) is not None] for m in metrics}
  body, remarks = [], []
  for run in all_runs:
    if run.name not in known:
      remarks.append(f"{run.name}: no detections. {run.problem}")
      body.append([html.escape(run.name), _or_dash(run.step), *["–"] * len(metrics)])
      continue
    own = known[run.name]
    cells = []
    for metric in metrics:
      value = own.results.get(metric)
      text = "–" if value is None else f"{value:.1f}"
      if value is not None and len(runs) > 1 and text == f"{max(values[metric]):.1f}":
        text = f"<strong>{text}</strong>"
      kind = next((k for k in ("novel", "base") if metric.endswith(k)), "all")
      cells.append(charts.bar_cell(text, value, kind))
    body.append([html.escape(run.name), str(run.step), *cells])
    images, total = len(own.records), len(run.source)
    part = f"the first {images} of {total}" if images < total else f"all {images}"
    remarks.append(
      f"On {part} images of {run.source.name}, with {own.diagnosis.objects(run.evaluated)} objects "
      f"of {len(run.evaluated)} classes."
    )
  table = charts.table(["run", "step", *metrics.values()], body)
  summary = "Box AP in percent at the step that was read: AP50 at IoU 0.5, AP over 0.5:0.95."
  if len(runs) > 1:
    summary += " The best of each column is bold."
  return section("Runs", summary, table + notes(list(dict.fromkeys(remarks))))


def _or_dash(value: Any) -> str:
  return "–" if value is None else str(value)


def training_curves(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
  """Losses, learning and evaluations by step, a chart for each kind of batch and metric."""
  panels: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
  for run, records in metrics.items():
    for record in records:
      if record.get("kind") in _HIDDEN:
        continue
      for key, value in record.items():
        if (key in CURVES or key in _EVALUATIONS) and value is not None:
          panel = panels.setdefault((record.get("kind", ""), key), {})
          panel.setdefault(run, []).append((record["step"], value))
  if not panels:
    return section("Training curves", "No run has a metrics file with losses or evaluations.")
  order = [*_EVALUATIONS, *CURVES]
  kinds = list(dict.fromkeys(kind for kind, _ in panels))
  drawn = []
  for kind, key in sorted(panels, key=lambda p: (kinds.index(p[0]), order.index(p[1]))):
    # Series keep their colour where a run has none.
    series = {run: tuple(zip(*panels[kind, key].get(run, ()))) or ((), ()) for run in metrics}
    title = f"{kind} · {key}" if kind else key
    drawn.append(charts.lines(title, series, "step", smooth=True))
  summary = "Faint lines are single steps, strong lines their running mean."
  missing = [f"{run} has no metrics file." for run, records in metrics.items() if not records]
  content = charts.legend(list(metrics)) + f'<div class="charts">{"".join(drawn)}</div>'
  return section("Training curves", summary, content + (notes(missing) if missing else ""))


def per_class(runs: Sequence[Examined]) -> str:
  """AP of each class by run in a table that a click on its head sorts."""
  first = runs[0]
  novel, metric = first.marked, "box_AP" if first.run.federated else "AP50"
  names = list(first.results["per_class"])
  rows = []
  for name in sorted(names, key=lambda n: (-(first.results["per_class"][n][metric] or -1), n)):
    cells: list[Any] = [_kind_tag(first, name, novel)]
    cells.append((str(count := first.results["per_class"][name]["num_gt"]), count))
    for own in runs:
      value = own.results["per_class"].get(name, {}).get(metric)
      text = "–" if value is None else f"{value:.1f}"
      cell = charts.bar_cell(text, value, "novel" if name in novel else "base")
      cells.append((cell, "" if value is None else round(value, 3)))
    rows.append([html.escape(name), *cells])
  names = [html.escape(own.name) for own in runs]
  table = charts.table(["class", "kind", "objects", *names], rows, sortable=True)
  summary = f"{metric.removeprefix('box_')} of each class in percent. A click on a heading sorts."
  return section("Classes", summary, f'<div class="tall">{table}</div>')


def _kind_tag(own: Examined, name: str, novel: set[str]) -> tuple[str, str]:
  kind = "novel" if name in novel else "base"
  if own.run.federated:
    source = own.run.source
    letter = source.frequencies[source.class_names.index(name)]
    kind = {"r": "rare", "c": "common", "f": "frequent"}[letter]
  marked = " novel" if name in novel else ""
  return f'<span class="tag{marked}">{kind}</span>', kind


def precision_recall(runs: Sequence[Examined]) -> str:
  """Precision by recall of each group of classes, and the operating points."""
  drawn = []
  for group in dict.fromkeys(group for own in runs for group in own.groups):
    curves = [own.diagnosis.precision_recall(own.groups.get(group, ())) for own in runs]
    if all(curve is None for curve in curves):
      continue
    recall = np.linspace(0, 1, 101)
    series = {
      own.name: ((), ()) if curve is None else (recall, curve) for own, curve in zip(runs, curves)
    }
    drawn.append(charts.lines(f"{group} classes", series, "recall", (0, 1)))
  body = []
  for own in runs:
    points = operating_points(own.curve)["points"]
    cells = [
      "never"
      if point is None
      else f"{point['score']:.2f} <small>recall {point['recall']:.0%}</small>"
      for point in points.values()
    ]
    body.append([html.escape(own.name), *cells])
  goals = [*(f"precision {float(p):.0%}" for p in PRECISIONS), "best F1"]
  table = charts.table(["from which score on", *goals], body)
  summary = (
    "Interpolated precision at IoU 0.5, the mean over the classes. Below, the smallest score from "
    "which on the detections of all classes together reach a precision."
  )
  content = f'<div class="charts">{"".join(drawn)}</div>{table}'
  return section(
    "Precision and recall", summary, charts.legend([own.name for own in runs]) + content
  )


def probabilities(runs: Sequence[Examined]) -> str:
  """How often detections are right by their score, and by what that becomes once calibrated."""
  drawn = []
  panels = (("scores as they are", "score"), ("calibrated", "probability"))
  for place, (title, label) in enumerate(panels):
    series = {}
    for own in runs:
      *chances, hits = own.held_out
      series[own.name] = reliability(chances[place], hits)[:2]
    if any(len(x) for x, _ in series.values()):
      drawn.append(charts.lines(title, series, label, (0, 1), diagonal=True))
  body = []
  for own in runs:
    worth = compared(*own.held_out)
    measures = [
      "–" if value is None else f"{value:.3f}"
      for when in ("before", "after")
      for value in worth[when].values()
    ]
    body.append([html.escape(own.name), str(worth["detections"]), *measures])
  head = ["run", "detections", "ECE", "Brier", "ECE, calibrated", "Brier, calibrated"]
  summary = (
    f"Part of the detections that are hits at IoU 0.5, in {BINS} bins of equally many by score: on "
    "the diagonal scores are probabilities. Calibrated (rkd-jax eval --calibrate), each half of "
    "the images by what was fitted to the other half. Below, the mean distance from the diagonal "
    "(ECE) and the mean squared error (Brier) of all detections. AP of a class does not change."
  )
  content = f'<div class="charts">{"".join(drawn)}</div>{charts.table(head, body)}'
  return section(
    "Scores as probabilities", summary, charts.legend([own.name for own in runs]) + content
  )


def confusion(runs: Sequence[Examined]) -> str:
  """For each run the pairs of names that are mistaken, and the matrix of those mistaken most."""
  parts, matrices = [], []
  for number, own in enumerate(runs):
    found = own.diagnosis.confusion(own.min_score)
    pairs = found.pairs()[:_LISTED]
    heading = f"<h3>{html.escape(own.name)}, from score {own.min_score:.2f}</h3>"
    if not pairs:
      parts.append(f"<div>{heading}{notes(['No object is taken for another class.'])}</div>")
      continue
    named = [(f"{was} → {taken}", float(count), f"{count} ×") for was, taken, count in pairs]
    rows = found.most_confused(_MATRIX)
    columns = [*rows, len(found.names)]
    names = [found.names[row] for row in rows]
    bars = charts.bars(named, pairs[0][2], f"b{number % charts.SERIES}")
    parts.append(f"<div>{heading}{bars}</div>")
    matrix = charts.heat(found.parts[np.ix_(rows, columns)], names, [*names, "not found"])
    title = f"{html.escape(own.name)}: matrix of the names that are mistaken most"
    matrices.append(f"<details><summary>{title}</summary>{matrix}</details>")
  summary = (
    "Objects (left) and what the detection that overlaps them most at IoU 0.5 calls them. In the "
    "matrix each row is the percentage of the objects of a class."
  )
  content = f'<div class="charts">{"".join(parts)}</div>{"".join(matrices)}'
  return section("Confusion among names", summary, content)


def errors(runs: Sequence[Examined]) -> str:
  """TIDE's kinds of errors by run."""
  if any(own.run.federated for own in runs):
    return section(
      "Kinds of errors",
      "Left out: TIDE's split takes every object for annotated, which LVIS' images are not.",
    )
  splits = [own.diagnosis.tide() for own in runs]
  body = []
  highest = max(gain for split in splits for gain, _ in split.values())
  for kind, meaning in TIDE.items():
    cells = []
    for number, split in enumerate(splits):
      gain, count = split[kind]
      text = f"{gain:.1f} <small>({count} ×)</small>"
      width = 100 * gain / max(highest, 1e-9)
      cells.append(charts.bar_cell(text, width, f"b{number % charts.SERIES}"))
    body.append([f"{kind} <small>{meaning}</small>", *cells])
  head = ["points of AP50", *(html.escape(own.name) for own in runs)]
  summary = "How much AP50 of all classes would rise if all errors of a kind were mended (TIDE)."
  return section("Kinds of errors", summary, charts.table(head, body))


def sizes(runs: Sequence[Examined]) -> str:
  """AP of small, medium and large objects."""
  body = []
  for size in SIZES:
    cells = []
    for number, own in enumerate(runs):
      ap, ap50 = own.diagnosis.average_precision(own.run.evaluated, size)
      text = "–" if ap is None else f"{ap:.1f} <small>(AP50 {ap50:.1f})</small>"
      cells.append(charts.bar_cell(text, ap, f"b{number % charts.SERIES}"))
    objects = runs[0].diagnosis.objects(runs[0].run.evaluated, size)
    body.append([size, str(objects), *cells])
  head = ["size", "objects", *(html.escape(own.name) for own in runs)]
  summary = (
    "AP by the area of objects in the stored image: small below 32², large from 96² pixels on. "
    "Each is the mean of the classes that have objects of that size."
  )
  return section("Sizes", summary, charts.table(head, body))


def proposals(runs: Sequence[Examined]) -> str:
  """Part of the objects that the best proposals of an image cover, by group of classes."""
  most = max(own.own.proposals for own in runs)
  counts = [*(count for count in _RECALL_AT if count < most), min(most, _RECALL_AT[-1])]
  body = []
  for own in runs:
    names = own.run.source.class_names
    for group, members in own.groups.items():
      numbers = [i for i, name in enumerate(names) if name in set(members)]
      ranks = own.own.ranks[np.isin(own.own.rank_classes, numbers)]
      if not len(ranks):
        continue
      kind = group if group in ("novel", "base") else "all"
      parts = [float((ranks < count).mean()) for count in counts]
      cells = [charts.bar_cell(f"{part:.1%}", 100 * part, kind) for part in parts]
      body.append([html.escape(own.name), group, str(len(ranks)), *cells])
  head = ["run", "classes", "objects", *(f"best {count}" for count in counts)]
  summary = (
    "Part of the annotated objects that the region proposal network covers at IoU 0.5 with its "
    f"best proposals of an image, {most} at most. What is not proposed cannot be found."
  )
  return section("Proposals", summary, charts.table(head, body))


NUMBERS: tuple[Callable[[Sequence[Examined]], str], ...] = (
  per_class,
  precision_recall,
  probabilities,
  errors,
  confusion,
  sizes,
  proposals,
)
