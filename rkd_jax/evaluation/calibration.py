"""Operating points: from which score on a detection can be believed, for each class and over all.

For the detections of a class on the evaluation split, by falling score s, let h(t) be the number of
hits (at IoU 0.5, see `matching`) and n(t) the number of all counted detections with s >= t, and g
the number of objects.  Then

  precision(t) = h(t) / n(t)    recall(t) = h(t) / g    F1(t) = 2 h(t) / (n(t) + g)

The threshold for a precision p is the smallest score t that occurs with precision(t) >= p: among
all thresholds that keep the promise it loses the fewest objects.  Precision need not rise with t,
so somewhat above it the precision may be lower again.  F1's threshold is where F1 is highest, of
equal ones the largest t.  'Over all' pools the detections of all classes.

A class with fewer than `MIN_OBJECTS` objects or `MIN_HITS` hits says too little: it takes the
thresholds over all, and so do words that are not in the vocabulary.  These points hold for images
like those of the split and for this checkpoint; a longer vocabulary has more false detections.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from rkd_jax.evaluation.checks import check_image, check_new
from rkd_jax.evaluation.matching import HIT, IGNORED, match
from rkd_jax.files import storage
from rkd_jax.records.sources import Record
from rkd_jax.runs.checkpoint import run_and_step

THRESHOLDS_FILE = "thresholds.json"
PRECISIONS = (0.5, 0.7, 0.9)
MIN_OBJECTS, MIN_HITS = 10, 10
_IOU = 0.5


@dataclass(frozen=True)
class Curve:
  """Precision and recall at each score that occurs, falling; `objects` is g.

  `counts` is n(t) and `hits` h(t).  All are empty where nothing counted was found.
  """

  scores: Float[np.ndarray, "t"]
  counts: Float[np.ndarray, "t"]
  hits: Float[np.ndarray, "t"]
  objects: int

  @property
  def precision(self) -> Float[np.ndarray, "t"]:
    return self.hits / np.maximum(self.counts, 1)

  @property
  def recall(self) -> Float[np.ndarray, "t"]:
    return self.hits / max(self.objects, 1)

  @property
  def f1(self) -> Float[np.ndarray, "t"]:
    return 2 * self.hits / np.maximum(self.counts + self.objects, 1)


def curve(scores: Float[np.ndarray, "n"], hits: Bool[np.ndarray, "n"], objects: int) -> Curve:
  """The curve of counted detections; equal scores make one point."""
  order = np.argsort(-scores, kind="stable")
  scores, hits = np.asarray(scores)[order], np.cumsum(np.asarray(hits)[order])
  last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
  return Curve(scores[last], 1.0 + last, hits[last].astype(float), objects)


def operating_points(own: Curve) -> dict[str, Any]:
  """The evidence, 'objects', 'detections' and 'hits', and 'points' for '0.5', '0.7', '0.9', 'f1'.

  A point has 'score', 'precision', 'recall' and 'detections'; it is None where never reached.
  """
  points = {}
  for wanted in PRECISIONS:
    reached = np.flatnonzero(own.precision >= wanted)
    points[str(wanted)] = _point(own, reached[-1]) if len(reached) else None
  points["f1"] = _point(own, own.f1.argmax()) if len(own.hits) and own.hits[-1] else None
  total = (own.counts[-1], own.hits[-1]) if len(own.counts) else (0, 0)
  evidence = {"objects": own.objects, "detections": int(total[0]), "hits": int(total[1])}
  return {**evidence, "points": points}


def _point(own: Curve, place: int) -> dict[str, float]:
  return {
    "score": float(own.scores[place]),
    "precision": float(own.precision[place]),
    "recall": float(own.recall[place]),
    "detections": int(own.counts[place]),
  }


class Calibrator:
  """Collects detections image by image, as evaluators do (see `checks`), then computes the points.

  Args:
    class_names: of the vocabulary.
    evaluated: names of the classes that are annotated; detections of others do not count.
  """

  def __init__(self, class_names: Sequence[str], evaluated: Sequence[str]):
    self._class_names = tuple(class_names)
    self._evaluated = {i for i, name in enumerate(class_names) if name in set(evaluated)}
    self._objects = np.zeros(len(class_names), np.int64)
    # Of each image the scores, classes and hits of what counts.
    self._images: dict[int, tuple[np.ndarray, ...]] = {}

  def add(self, record: Record, found: Mapping[str, np.ndarray]) -> None:
    """Adds one image; ValueError as `checks.check_image`."""
    fields = ("boxes", "classes", "is_crowd")
    columns = len(self._class_names)
    image_id, truth, found = check_image(record, found, self._images, columns, fields)
    np.add.at(self._objects, truth["classes"][~truth["is_crowd"]], 1)
    status, _ = match(record, found, self._evaluated, _IOU)
    counted = status != IGNORED
    own = found["scores"], found["classes"], status == HIT
    self._images[image_id] = tuple(column[counted] for column in own)

  def merge(self, other: "Calibrator") -> None:
    """Adds the images of another one."""
    check_new(other._images, self._images)
    self._images |= other._images
    self._objects += other._objects

  def curves(self) -> tuple[Curve, dict[str, Curve]]:
    """That of all evaluated classes together, and that of each; ValueError without an image."""
    if not self._images:
      raise ValueError("no image was added; nothing to calibrate")
    columns = zip(*(self._images[image_id] for image_id in sorted(self._images)))
    scores, classes, hits = map(np.concatenate, columns)
    each = {}
    for number in sorted(self._evaluated):
      own = classes == number
      name = self._class_names[number]
      each[name] = curve(scores[own], hits[own], int(self._objects[number]))
    objects = int(self._objects[sorted(self._evaluated)].sum())
    return curve(scores, hits, objects), each

  def compute(self) -> dict[str, Any]:
    """{'images', 'iou', 'vocabulary', 'all', 'classes': {name: ..}} of `operating_points`."""
    together, each = self.curves()
    return {
      "images": len(self._images),
      "iou": _IOU,
      "vocabulary": list(self._class_names),
      "all": operating_points(together),
      "classes": {name: operating_points(own) for name, own in each.items()},
    }


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
    return Thresholds(int(content.pop("step")), str(content.pop("split")), content)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{file} is damaged ({type(error).__name__}: {error}): remove it, and evaluate again with "
      "--calibrate."
    ) from error
