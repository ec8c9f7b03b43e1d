"""From runs to the page: what there is of each is examined, the rest is said in a sentence."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from rkd_jax.evaluation.evaluate import calibrator, evaluator
from rkd_jax.files import storage
from rkd_jax.pictures.page import section, write_page
from rkd_jax.report import gallery, sections
from rkd_jax.report.examination import Run, examine
from rkd_jax.report.sections import Examined
from rkd_jax.runs.checkpoint import run_and_step
from rkd_jax.runs.metrics import METRICS_FILE, read_metrics

LIMIT = 1_000  # images


def build(
  runs: Sequence[Run],
  output: str | os.PathLike,
  title: str,
  limit: int = LIMIT,
  before: Sequence[str] = (),
  after: Sequence[str] = (),
) -> list[Examined]:
  """Writes the page of some runs, and returns those that could be examined.

  Args:
    runs: with names that are unlike; see `examination.open_run`.
    output: the HTML file; its folder is made if absent.
    title: of the page.
    limit: the first so many images of the split are looked at.
    before, after: sections of the caller, at the top and at the bottom.

  Raises:
    ValueError: two runs have the same name, or a checkpoint does not fit its config.
  """
  names = [run.name for run in runs]
  if len(set(names)) < len(names):
    raise ValueError(f"two runs have the same name: {', '.join(names)}; give each its own")
  done, without = [], []
  for run in runs:
    if run.source is None:
      without.append(f"{run.name}: {run.problem}")
    elif run.config.evaluation.protocol == "open_images":
      without.append(
        f"{run.name}: Open Images' protocol counts classes above a class, too; its AP comes from "
        "`rkd-jax eval`, and the sections on detections are left out."
      )
    else:
      own = examine(run, limit)
      # Boxes alone are kept: masks of LVIS are not evaluated here.
      parts = evaluator(run.config, run.source, masks=False), calibrator(run.config, run.source)
      done.append(sections.examined(run, own, *parts))
  metrics = {run.name: _metrics(run) for run in runs}
  parts = [*before, sections.runs_table(runs, done), sections.training_curves(metrics)]
  # Runs on other records, or of other classes, stand on their own.
  for group in _alike(done):
    for make in (*sections.NUMBERS[:2], gallery.images, *sections.NUMBERS[2:]):
      parts.append(make(group))
    parts += [make(group) for make in gallery.PICTURES[1:]]
  if without:
    text = "Of these runs there are no sections on detections."
    parts.append(section("Left out", text, gallery.left_out(" ".join(without))))
  write_page(output, title, [*parts, *after])
  return done


def _alike(runs: Sequence[Examined]) -> list[list[Examined]]:
  """Runs that were examined on the same images with the same classes, together."""
  groups: dict[Any, list[Examined]] = {}
  for own in runs:
    source = own.run.source
    same = (source.identity, source.class_names, own.run.federated, len(own.records))
    groups.setdefault(same, []).append(own)
  return list(groups.values())


def _metrics(run: Run) -> list[Mapping[str, Any]]:
  """The records of the run's metrics file; none where there is none that can be read."""
  file = Path(run_and_step(run.folder)[0]) / METRICS_FILE
  if not storage.path(file).exists():
    return []
  try:
    return list(read_metrics(file))
  except ValueError as error:
    logging.warning("%s: %s; its curves are left out.", run.name, error)
    return []
