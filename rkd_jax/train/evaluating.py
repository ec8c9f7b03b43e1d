"""When a run is evaluated while it trains, and what is written of it."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import tqdm

from rkd_jax.machine import cluster
from rkd_jax.runs import evaluations
from rkd_jax.runs.metrics import MetricWriter

# From a step, its parameters on the mesh and whether to stop meanwhile to results, which it stores
# in the run's folder; None if it was stopped.  Of several processes the first has results.
Evaluate = Callable[[int, Any, Callable[[], bool]], Mapping[str, Any] | None]
MakeEvaluate = Callable[[ml_collections.ConfigDict, str], Evaluate]


def is_due(config: ml_collections.ConfigDict, step: int) -> bool:
  """Whether a run is evaluated after so many steps: every `evaluation.every`, and after the last.

  Before the first step only old classes are of interest, if `evaluation.retention` names some.
  """
  own = config.get("evaluation", {})
  if not own.get("every", 0):
    return False
  if step == 0:
    return bool(own.get("retention", {}).get("name"))
  return step % own.every == 0 or step == config.num_steps


class Evaluations:
  """Those of a run; results depend on the step alone, so that a run that goes on repeats them."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    evaluate: Evaluate | None,
    writer: MetricWriter | None,
  ):
    self._config, self._workdir = config, workdir
    self._evaluate, self._writer = evaluate, writer

  def due(self, step: int) -> bool:
    return self._evaluate is not None and is_due(self._config, step)

  def begin(self, start: int, params: Any, stop: Callable[[], bool]) -> bool:
    """The evaluation of the step that a run starts from, if it is due; False if it was stopped.

    What is known of it, since the run was killed later, is not measured again.
    """
    if self._evaluate is None:
      return True
    known = {}
    with cluster.together():
      if cluster.is_first():
        evaluations.forget_after(self._workdir, start)
        known = evaluations.read(self._workdir).get(start, {})
    if not self.due(start):
      return True
    if not cluster.of_first(int(bool(known))):
      return self.measure(start, params, stop)
    self._write(start, known)
    return True

  def measure(self, step: int, params: Any, stop: Callable[[], bool]) -> bool:
    """Evaluates a step, writes the metrics and a line; False if it was stopped.

    Several processes are not stopped: they cannot agree upon an image.
    """
    alone = jax.process_count() == 1
    results = self._evaluate(step, params, stop if alone else lambda: False)
    if results:
      self._write(step, results)
      tqdm.tqdm.write(line_of(self._config, step, results, self._best(step)))
    return results is not None

  def _write(self, step: int, results: Mapping[str, Any]) -> None:
    if self._writer:
      for kind, own in (("eval", results), ("retention", results.get("retention", {}))):
        if metrics := _metrics(own):
          self._writer.write(step, kind, metrics)

  def _best(self, step: int) -> bool:
    metric = self._config.checkpoint.best
    # Of step 0 there is no checkpoint.
    steps = range(1, step + 1)
    return bool(metric) and evaluations.best_step(self._workdir, metric, steps) == step


def _metrics(results: Mapping[str, Any]) -> dict[str, float | None]:
  return {
    name: value
    for name, value in results.items()
    if name != "step" and (value is None or isinstance(value, int | float))
  }


def line_of(
  config: ml_collections.ConfigDict, step: int, results: Mapping[str, Any], best: bool
) -> str:
  """What is said of an evaluation: 'step 40 of 90: AP50_all 12.3, AP50_base 15.0 (best so far)'."""

  def figures(own: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in _metrics(own).items() if value is not None}
    changes = {
      name: f" ({shown[key]:+.1f})" for name in shown if (key := f"{name}_change") in shown
    }
    return ", ".join(
      f"{name} {value:.1f}{changes.get(name, '')}"
      for name, value in shown.items()
      if not name.endswith("_change")
    )

  line = f"step {step} of {config.num_steps}: {figures(results)}{' (best so far)' if best else ''}"
  if old := results.get("retention"):
    line += f"; old classes, {old['records']}: {figures(old)}"
  return line
