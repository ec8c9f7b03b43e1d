"""Operating points: from which score on a detection can be believed, for each class and over all.

For the detections of a class on a split, by falling score s, let h(t) be the number of
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

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

PRECISIONS = (0.5, 0.7, 0.9)
MIN_OBJECTS, MIN_HITS = 10, 10


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
