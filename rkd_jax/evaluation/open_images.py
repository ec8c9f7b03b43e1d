"""The AP of the Open Images Challenge 2019 (detection), at IoU 0.5.

In an image only the verified classes count, those that people found there or not there; other
detections are dropped.  Boxes of one class in one image are then matched, best score first:

- A detection belongs to the ordinary box that it overlaps most.  With an IoU of 0.5 or more it is
  right, unless a better one has taken that box.
- One that is left belongs to the group-of box that holds most of it.  With half of its own area
  or more in there, the best of each group is right, and the others are ignored.
- Any other is wrong.  A box or group that nobody took is missed; both weigh 1.

AP is the area under precision, made to fall with recall (VOC 2010), of each class with boxes.

Ground truth counts for all classes above its own; `data.openimages_challenge2019` stores it so.
The challenge does the same and takes detections as they come: it is on the participant to hand in
"vehicle" beside "car".  `AP50` is that, of a detector that scores all classes by their names;
`AP50_expanded` lets each detection stand for all classes above its own, too, with its score and
beside whatever the detector says of those itself.  The evaluation of UniDet and Detic, the usual
one across data sets, has both numbers.

Sources: OpenImagesDetectionChallengeEvaluator of TensorFlow's object detection API (group weight
1), and `oideval.py` of UniDet and Detic, which cuts to the best 300 of an image before expanding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rkd_jax.evaluation.checks import check_image, check_new, mean_of_counted
from rkd_jax.ops.host import covered, iou
from rkd_jax.records.class_names import check_split
from rkd_jax.records.sources import Record

_THRESHOLD = 0.5


class OpenImagesEvaluator:
  """Collects detections image by image, then computes the challenge's AP; see `checks`.

  Args:
    class_names: of the vocabulary.
    base: names annotated in training.
    novel: names annotated in evaluation only; disjoint from `base`.
    ancestors: of each class, all classes above it.
    max_detections: the best so many of an image count, whatever their class.

  Raises:
    ValueError: a base or novel name is no class, or is in both lists; `ancestors` has another
      length, or a class that is none.
  """

  def __init__(
    self,
    class_names: Sequence[str],
    base: Sequence[str],
    novel: Sequence[str],
    ancestors: Sequence[Sequence[int]],
    max_detections: int = 300,
  ):
    check_split(class_names, base, novel)
    columns = len(class_names)
    if len(ancestors) != columns:
      raise ValueError(
        f"ancestors are of {len(ancestors)} classes, expected a list for each of {columns}: "
        "build openimages_challenge2019 again"
      )
    alone = np.eye(columns, dtype=bool)
    expanded = alone.copy()
    for number, above in enumerate(ancestors):
      expanded[number] |= _mask(f"ancestors of class {class_names[number]!r}", above, columns)
    self._class_names = tuple(class_names)
    self._groups = {"base": frozenset(base), "novel": frozenset(novel), "all": {*base, *novel}}
    self._max_detections = max_detections
    self._num_gt = np.zeros(columns, np.int64)
    # Row c: the classes that a detection of c counts for.
    self._counts_for = {"AP50": alone, "AP50_expanded": expanded}
    # Classes, scores and correctness of what counts in each image: never boxes.
    self._outcomes: dict[str, dict[int, tuple]] = {name: {} for name in self._counts_for}

  def add(self, record: Record, found: Mapping[str, np.ndarray]) -> None:
    """Adds one image, whose boxes and labels must have been expanded along the hierarchy.

    Its record has objects and groups of objects (`is_crowd`), and the classes verified to be there
    beside those of the boxes (`labels`), and not to be there (`negative_labels`).

    Raises:
      ValueError: see `checks.check_image`, of the verified classes, too.
    """
    columns, fields = len(self._class_names), ("boxes", "classes", "is_crowd")
    image_id, truth, found = check_image(record, found, self._outcomes["AP50"], columns, fields)
    labels = [*record.labels, *record.negative_labels]
    verified = _mask(f"image {image_id}: verified classes", labels, columns)
    verified[truth["classes"]] = True
    np.add.at(self._num_gt, truth["classes"], 1)
    best = np.argsort(-found["scores"], kind="stable")[: self._max_detections]
    for name, counts_for in self._counts_for.items():
      rows, classes = np.nonzero(counts_for[found["classes"][best]] & verified)
      rows = best[rows]
      right, ignored = _judge(found["boxes"][rows], classes, truth)
      arrays = classes.astype(np.int32), found["scores"][rows], right
      self._outcomes[name][image_id] = tuple(array[~ignored] for array in arrays)

  def merge(self, other: "OpenImagesEvaluator") -> None:
    """Adds the images of another one."""
    check_new(other._outcomes["AP50"], self._outcomes["AP50"])
    for name, outcomes in self._outcomes.items():
      outcomes |= other._outcomes[name]
    self._num_gt += other._num_gt

  def compute(self) -> dict[str, Any]:
    """AP at IoU 0.5, in percent.

    Returns:
      {'AP50_novel', 'AP50_base', 'AP50_all', 'AP50_expanded_novel', 'AP50_expanded_base',
      'AP50_expanded_all', 'per_class': {name: {'num_gt', 'AP50', 'AP50_expanded'}}}.  Groups
      are among `num_gt`, each counted once.

    Raises:
      ValueError: no image was added.
    """
    if not self._outcomes["AP50"]:
      raise ValueError("no image was added; nothing to evaluate")
    per_class = {
      name: {"num_gt": int(count)} for name, count in zip(self._class_names, self._num_gt)
    }
    means = {}
    for measure, outcomes in self._outcomes.items():
      images = [outcomes[image_id] for image_id in sorted(outcomes)]
      classes, scores, right = (np.concatenate(arrays) for arrays in zip(*images))
      order = np.lexsort((-scores, classes))
      ends = np.searchsorted(classes[order], np.arange(1, len(self._class_names)))
      for entry, own in zip(per_class.values(), np.split(right[order], ends)):
        entry[measure] = _average_precision(own, entry["num_gt"])
      for group in ("novel", "base", "all"):
        own = [entry[measure] for name, entry in per_class.items() if name in self._groups[group]]
        means[f"{measure}_{group}"] = mean_of_counted(own)
    return {**means, "per_class": per_class}


def _judge(
  boxes: Float[np.ndarray, "d 4"], classes: Int[np.ndarray, "d"], truth: dict[str, np.ndarray]
) -> tuple[Bool[np.ndarray, "d"], Bool[np.ndarray, "d"]]:
  """Which detections of an image, best first, are right, and which are ignored."""
  right, ignored = np.zeros((2, len(boxes)), bool)
  is_group = truth["is_crowd"]
  pair = boxes.astype(np.float64), truth["boxes"].astype(np.float64)
  overlaps = np.where(is_group, covered(*pair), iou(*pair))
  overlaps[classes[:, None] != truth["classes"]] = 0.0
  for columns in (np.flatnonzero(~is_group), np.flatnonzero(is_group)):
    if len(columns):
      rows = np.flatnonzero(~right)
      best = columns[overlaps[np.ix_(rows, columns)].argmax(axis=1)]
      near = overlaps[rows, best] >= _THRESHOLD
      rows, best = rows[near], best[near]
      _, first = np.unique(best, return_index=True)
      right[rows[first]] = True
      ignored[rows] = is_group[best] & ~right[rows]
  return right, ignored


def _average_precision(right: Bool[np.ndarray, "d"], num_gt: int) -> float | None:
  """The area in percent, of detections by falling score; recall rises at the right ones alone."""
  if not num_gt:
    return None
  precision = np.cumsum(right) / np.arange(1, len(right) + 1)
  falling = np.maximum.accumulate(precision[::-1])[::-1]
  return 100.0 * float(falling[right].sum()) / num_gt


def _mask(what: str, classes: Sequence[int], columns: int) -> Bool[np.ndarray, "c"]:
  """True at the given classes; a ValueError that names `what` if one is no column."""
  columns_of = np.asarray(classes, np.int64)
  if bad := sorted({int(c) for c in columns_of if not 0 <= c < columns}):
    raise ValueError(f"{what}: {bad[:5]} are no classes, expected 0..{columns - 1}")
  mask = np.zeros(columns, bool)
  mask[columns_of] = True
  return mask
