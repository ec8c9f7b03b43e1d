"""What kinds of errors a detector makes on a split, for the report; hotcoco is the engine.

All is about boxes.  Classes that are not annotated are left out, as in the protocol, and so is what
a federated data set did not look for.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Float, Int

from rkd_jax.evaluation.coco import coco_annotations
from rkd_jax.evaluation.matching import FALSE, HIT, match
from rkd_jax.records.sources import Record

# Areas in pixels of the stored image, as COCO has them.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
# TIDE's kinds of errors (Bolya et al., 2020), and what they are.
TIDE = {
  "Cls": "right place, wrong class",
  "Loc": "right class, wrong place",
  "Both": "wrong class and place",
  "Dupe": "a second box on the same object",
  "Bkg": "background taken for an object",
  "Miss": "object not found",
}

Found = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Confusion:
  """Parts of the objects of each class (row) that are found as each class, or not at all.

  `counts` has a row and a column for each of `names`, and last the background: objects that were
  missed, and detections of nothing or of a crowd.
  """

  names: tuple[str, ...]
  counts: Int[np.ndarray, "k k"]

  @property
  def parts(self) -> Float[np.ndarray, "k k"]:
    return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

  def pairs(self) -> list[tuple[str, str, int]]:
    """(what it was, what it was taken for, how often) of unlike classes, most often first."""
    own = self.counts[:-1, :-1] * ~np.eye(len(self.names), dtype=bool)
    places = np.argsort(-own, axis=None, kind="stable")[: np.count_nonzero(own)]
    rows, columns = np.unravel_index(places, own.shape)
    return [(self.names[r], self.names[c], int(own[r, c])) for r, c in zip(rows, columns)]

  def most_confused(self, count: int) -> Int[np.ndarray, "c"]:
    """Rows of the classes that take part in the most confusions, in the order of the names."""
    own = self.counts[:-1, :-1] * ~np.eye(len(self.names), dtype=bool)
    involved = own.sum(axis=0) + own.sum(axis=1)
    return np.sort(np.argsort(-involved, kind="stable")[:count])


class Diagnosis:
  """The errors on some images.

  Args:
    records: the images with their objects.
    found: detections of each, as evaluators take them.
    class_names: of the vocabulary.
    evaluated: the names among them that are annotated.
    max_detections: the best so many of an image count.
  """

  def __init__(
    self,
    records: Sequence[Record],
    found: Sequence[Found],
    class_names: Sequence[str],
    evaluated: Sequence[str],
    max_detections: int,
  ):
    known = set(evaluated)
    self.classes = [i for i, name in enumerate(class_names) if name in known]
    self.names = tuple(class_names[i] for i in self.classes)
    self.federated = bool(records) and records[0].negative_labels is not None
    self._records, self._found = records, found
    categories = [{"id": i + 1, "name": class_names[i], "frequency": "f"} for i in self.classes]
    images, objects, detections = [], [], []
    for number, (record, own) in enumerate(zip(records, found), start=1):
      image: dict[str, Any] = {"id": number, "height": record.height, "width": record.width}
      if self.federated:
        image["neg_category_ids"] = [int(c) + 1 for c in record.negative_labels]
        image["not_exhaustive_category_ids"] = [int(c) + 1 for c in record.not_exhaustive_labels]
      images.append(image)
      truth = {name: getattr(record, name) for name in ("boxes", "classes", "areas", "is_crowd")}
      for into, arrays in ((objects, truth), (detections, own)):
        rows = np.flatnonzero(np.isin(arrays["classes"], self.classes))
        into += coco_annotations(number, arrays, rows, len(into) + 1)
    content = {"images": images, "categories": categories, "annotations": objects}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of areas and numbers of detections that are not COCO's
      truth = hotcoco.COCO(content)
      results = (
        truth.load_res(detections) if detections else hotcoco.COCO({**content, "annotations": []})
      )
      self._evaluation = hotcoco.COCOeval(truth, results, "bbox", lvis_style=self.federated)
      params = self._evaluation.params
      params.area_rng = [[0.0, 1e10], *map(list, SIZES.values())]
      params.area_rng_lbl = ["all", *SIZES]
      params.max_dets = [max_detections]
      self._evaluation.evaluate()
      self._evaluation.accumulate()
      # IoU, recall, class, size; -1 where there is no object.
      self._precision = np.asarray(self._evaluation.eval["precision"])[..., 0]  # pyright: ignore[reportOptionalSubscript]

  def precision_recall(self, names: Sequence[str]) -> Float[np.ndarray, "101"] | None:
    """Precision at IoU 0.5 and recalls of 0, 0.01, .. 1, the mean of some classes; None of none."""
    own = self._precision[0, :, self._columns(names), 0]
    own = own[(own > -1).all(axis=1)]
    return own.mean(axis=0) if len(own) else None

  def average_precision(self, names: Sequence[str], size: str | None = None) -> tuple:
    """(AP, AP50) in percent, means of the classes that have an object (of the size)."""
    area = 0 if size is None else 1 + list(SIZES).index(size)
    own = self._precision[:, :, self._columns(names), area]
    own = own[:, :, (own > -1).all(axis=(0, 1))]
    return (100 * own.mean(), 100 * own[0].mean()) if own.size else (None, None)

  def _columns(self, names: Sequence[str]) -> list[int]:
    return [self.names.index(name) for name in names if name in self.names]

  def objects(self, names: Sequence[str], size: str | None = None) -> int:
    """How many objects of some classes there are, perhaps of a size; crowds are none."""
    low, high = (0.0, np.inf) if size is None else SIZES[size]
    wanted = [self.classes[column] for column in self._columns(names)]
    return sum(
      int((np.isin(r.classes, wanted) & ~r.is_crowd & (r.areas >= low) & (r.areas < high)).sum())
      for r in self._records
    )

  def confusion(self, min_score: float) -> Confusion:
    """Detections from a score on against the objects that they overlap, whatever their classes."""
    found = self._evaluation.confusion_matrix(iou_thr=0.5, min_score=min_score)
    return Confusion(tuple(found["cat_names"]), np.asarray(found["matrix"], np.int64))

  def tide(self) -> dict[str, tuple[float, int]]:
    """TIDE's errors: points of AP50 that mending all of a kind would give, and their number."""
    found = self._evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
    return {k: (100 * float(found["delta_ap"][k]), int(found["counts"][k])) for k in TIDE}

  def of_image(self, number: int, min_score: float) -> dict[str, Int[np.ndarray, "n"]]:
    """Rows of detections from a score on that are 'hits' or 'false', and of 'missed' objects."""
    record, found = self._records[number], self._found[number]
    kept = np.flatnonzero(found["scores"] >= min_score)
    status, partner = match(record, {k: v[kept] for k, v in found.items()}, self.classes)
    wanted = np.isin(record.classes, self.classes) & ~record.is_crowd
    wanted[partner[partner >= 0]] = False
    false = kept[status == FALSE]
    return {"hits": kept[status == HIT], "false": false, "missed": np.flatnonzero(wanted)}

  def f1_of_images(self, min_score: float) -> Float[np.ndarray, "i"]:
    """F1 of each image at a score; NaN without an object and a detection."""
    values = []
    for number in range(len(self._records)):
      own = {key: len(rows) for key, rows in self.of_image(number, min_score).items()}
      total = 2 * own["hits"] + own["false"] + own["missed"]
      values.append(2 * own["hits"] / total if total else np.nan)
    return np.array(values)
