"""thresholds.json of a run: which scores to believe, and what chance they stand for."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from rkd_jax.evaluation.calibration.points import MIN_HITS, MIN_OBJECTS, PRECISIONS
from rkd_jax.evaluation.calibration.scaling import Scaling
from rkd_jax.files import storage
from rkd_jax.runs.checkpoint import run_and_step

THRESHOLDS_FILE = "thresholds.json"


@dataclass(frozen=True)
class Thresholds:
  """The operating points of a run: the `step` they belong to, the split, and the file's content."""

  step: int
  split: str
  content: Mapping[str, Any]

  def threshold_for(
    self, names: Sequence[str], precision: float | str = 0.7
  ) -> Float[np.ndarray, "c"]:
    """The smallest score to believe for each class, at a precision of `PRECISIONS` or at 'f1'.

    A class with too little evidence takes the one over all.  A class that has enough but never
    reaches the precision takes the higher of its F1's and the one over all; and all classes
    together, if they never do, F1's.

    Raises:
      ValueError: another precision, or nothing was hit at all.
    """
    key = str(precision)
    if key not in (*map(str, PRECISIONS), "f1"):
      known = ", ".join(map(str, PRECISIONS))
      raise ValueError(f"there are thresholds for precision {known} and 'f1', not {precision!r}")
    overall = self.content["all"]["points"]
    general = overall[key] or overall["f1"]
    if general is None:
      raise ValueError(
        f"on {self.split} no detection of step {self.step} was right, so that no score can be "
        "trusted: give --min_score a number, or train for longer"
      )
    return np.array([self._of(name, key, general["score"]) for name in names], np.float32)

  def probability(
    self,
    names: Sequence[str],
    scores: Float[np.ndarray, "n"],
    classes: Int[np.ndarray, "n"],
  ) -> Float[np.ndarray, "n"]:
    """The chance that each detection is a hit at IoU 0.5; see `scaling`.

    `classes` are places in `names`, words of any vocabulary.  Those that are not evaluated classes
    of the file take the bias of all.

    Raises:
      ValueError: the file is of an earlier version, which had no probabilities.
    """
    own = self.content.get("probability")
    if own is None:
      raise ValueError(
        f"the thresholds of step {self.step} on {self.split} are of an earlier version, without "
        "probabilities: evaluate again with --calibrate."
      )
    biases = np.array([own["classes"].get(name, own["bias"]) for name in names])
    return Scaling(own["slope"], own["bias"], biases)(scores, classes)

  def _of(self, name: str, key: str, general: float) -> float:
    own = self.content["classes"].get(name)
    if own is None or own["objects"] < MIN_OBJECTS or own["hits"] < MIN_HITS:
      return general
    if own["points"][key] is None:
      return max(general, own["points"]["f1"]["score"])
    return own["points"][key]["score"]


def save_thresholds(run: str | os.PathLike, step: int, points: Mapping[str, Any]) -> None:
  """Writes RUN/thresholds.json whole or not at all: what `Calibrator.compute` gives, and 'split'.

  Raises OSError if it cannot be written.
  """
  file = epath.Path(run_and_step(run)[0]) / THRESHOLDS_FILE
  storage.write(file, json.dumps({"step": step, **points}, indent=1))


def load_thresholds(run: str | os.PathLike) -> Thresholds:
  """The operating points of a run's folder, or of `.../checkpoints/<step>` in it.

  Raises:
    ValueError: they were not made yet, or the file is damaged.
  """
  file = epath.Path(run_and_step(run)[0]) / THRESHOLDS_FILE
  if not file.exists():
    raise ValueError(
      f"{file} is missing: `rkd-jax eval --config=CONFIG --workdir={run} --calibrate` makes it "
      "from the evaluation split."
    )
  try:
    content = json.loads(file.read_text())
    parts = [content["all"], *content["classes"].values()]
    if not all({"objects", "hits", "points"} <= set(part) for part in parts):
      raise ValueError("a class lacks its points")
    _check_probability(content.get("probability"))
    return Thresholds(int(content.pop("step")), str(content.pop("split")), content)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{file} is damaged ({type(error).__name__}: {error}): remove it, and evaluate again with "
      "--calibrate."
    ) from error


def _check_probability(own: Mapping[str, Any] | None) -> None:
  """Raises ValueError (or another) for what is no scaling; None is that of earlier versions."""
  if own is not None:
    numbers = [own["slope"], own["bias"], *own["classes"].values()]
    if not all(map(math.isfinite, numbers)) or own["slope"] <= 0:
      raise ValueError("probabilities need finite numbers and a slope above 0")
