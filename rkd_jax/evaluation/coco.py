"""The OV-COCO protocol: box AP over novel, base and all annotated classes.

The detector scores every class of the vocabulary (80 columns on COCO); the
annotations cover base and novel classes only (48 + 17).  Detections of the
remaining classes are dropped here, after the detector's top-100 cut, as the
original does by evaluating against an annotation file of 65 categories.
All APs are in percent, as in the paper's tables.
"""

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import hotcoco
import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import coco as pycocotools_coco
from pycocotools import cocoeval as pycocotools_cocoeval

from rkd_jax.evaluation.checks import check_image, check_split
from rkd_jax.ops.host_boxes import _pairwise_iou

Engine = Literal["hotcoco", "pycocotools"]


class CocoEvaluator:
  """Collects detections image by image, then computes COCO box AP.

  Args:
    class_names: the C names of the vocabulary; classes index this list.
    base: names annotated in training.
    novel: names annotated in evaluation only; disjoint from `base`.
    engine: 'hotcoco' (fast) or 'pycocotools' (the reference); equal numbers.
    max_detections: cap per image and class, COCO's maxDets.

  Raises:
    ValueError: a base or novel name is not in `class_names`, or is in both
      lists; an unknown engine.
  """

  def __init__(
    self,
    class_names: Sequence[str],
    base: Sequence[str],
    novel: Sequence[str],
    engine: Engine = "hotcoco",
    max_detections: int = 100,
  ):
    if engine not in ("hotcoco", "pycocotools"):
      raise ValueError(f"engine is {engine!r}; expected 'hotcoco' or 'pycocotools'")
    check_split(class_names, base, novel)
    self._class_names = tuple(class_names)
    self._index = {name: index for index, name in enumerate(class_names)}
    self._base = tuple(base)
    self._novel = tuple(novel)
    self._evaluated = sorted(self._index[name] for name in (*base, *novel))
    self._engine = engine
    self._max_detections = max_detections
    self._images: dict[int, dict[str, Any]] = {}

  def add(
    self,
    image_id: int,
    height: int,
    width: int,
    gt_boxes: Float[np.ndarray, "g 4"],
    gt_classes: Int[np.ndarray, "g"],
    gt_is_crowd: Bool[np.ndarray, "g"],
    gt_areas: Float[np.ndarray, "g"],
    det_boxes: Float[np.ndarray, "n 4"],
    det_scores: Float[np.ndarray, "n"],
    det_classes: Int[np.ndarray, "n"],
  ) -> None:
    """Adds one image; boxes are XYXY in pixels of the original image.

    Raises:
      ValueError: the image id was added before, array lengths differ, a class
        is not a column, or a box, area or score is not finite.
    """
    image_id, truth, found = check_image(
      image_id,
      self._images,
      len(self._class_names),
      truth={"boxes": gt_boxes, "classes": gt_classes, "areas": gt_areas, "is_crowd": gt_is_crowd},
      found={"boxes": det_boxes, "classes": det_classes, "scores": det_scores},
    )
    self._images[image_id] = {
      "height": int(height),
      "width": int(width),
      "truth": truth,
      "found": found,
    }

  def compute(self) -> dict[str, Any]:
    """AP at IoU 0.5 and averaged over 0.5:0.95, in percent.

    Returns:
      {'AP50_novel', 'AP50_base', 'AP50_all', 'AP_novel', 'AP_base', 'AP_all',
      'per_class': {name: {'AP50', 'AP', 'num_gt'}}}.  A class without ground
      truth (crowds do not count) has None and is left out of the means; a mean
      over no class is None.

    Raises:
      ValueError: no image was added.
    """
    if not self._images:
      raise ValueError("no image was added; nothing to evaluate")
    precision = self._precision()
    num_gt = self._count_ground_truth()
    per_class = {}
    for column, index in enumerate(self._evaluated):
      values = precision[:, :, column]
      counted = bool((values > -1).all())
      per_class[self._class_names[index]] = {
        "AP50": 100.0 * float(values[0].mean()) if counted else None,
        "AP": 100.0 * float(values.mean()) if counted else None,
        "num_gt": num_gt[index],
      }
    groups = {"novel": self._novel, "base": self._base, "all": (*self._base, *self._novel)}
    means = {
      f"{metric}_{group}": mean_of_counted(per_class[name][metric] for name in names)
      for metric in ("AP50", "AP")
      for group, names in groups.items()
    }
    return {**means, "per_class": per_class}

  def _precision(self) -> Float[np.ndarray, "iou recall k"]:
    """Interpolated precision per IoU threshold, recall point and evaluated class."""
    # Ranks by sorted id, so that ties do not depend on the order of `add`, and
    # that ids of 0 (which pycocotools takes for "unmatched") cannot occur.
    images, truth, found = [], [], []
    for rank, image_id in enumerate(sorted(self._images), start=1):
      image = self._images[image_id]
      images.append({"id": rank, "height": image["height"], "width": image["width"]})
      truth += self._annotations(rank, image["truth"], first_id=len(truth) + 1)
      found += self._annotations(rank, image["found"], first_id=len(found) + 1)
    categories = [{"id": index + 1, "name": self._class_names[index]} for index in self._evaluated]
    header = {"images": images, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
      evaluation = _ENGINES[self._engine](
        {**header, "annotations": truth}, {**header, "annotations": found}
      )
      evaluation.params.areaRng = [[0.0, 1e10]]
      evaluation.params.areaRngLbl = ["all"]
      evaluation.params.maxDets = [self._max_detections]
      evaluation.evaluate()
      evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]

  def _annotations(
    self, rank: int, arrays: dict[str, np.ndarray], first_id: int
  ) -> list[dict[str, Any]]:
    """COCO annotation dicts (xywh) of one image, evaluated classes only."""
    kept = np.flatnonzero(np.isin(arrays["classes"], self._evaluated))
    boxes = arrays["boxes"].astype(np.float64)
    sizes = boxes[:, 2:] - boxes[:, :2]
    annotations = []
    for offset, i in enumerate(kept):
      annotation = {
        "id": first_id + offset,
        "image_id": rank,
        "category_id": int(arrays["classes"][i]) + 1,
        "bbox": [*boxes[i, :2].tolist(), *sizes[i].tolist()],
        "area": float(arrays["areas"][i]) if "areas" in arrays else float(sizes[i].prod()),
        "iscrowd": int(arrays["is_crowd"][i]) if "is_crowd" in arrays else 0,
      }
      if "scores" in arrays:
        annotation["score"] = float(arrays["scores"][i])
      annotations.append(annotation)
    return annotations

  def _count_ground_truth(self) -> list[int]:
    """Boxes per class of the vocabulary, without crowds."""
    counts = np.zeros(len(self._class_names), np.int64)
    for image in self._images.values():
      truth = image["truth"]
      np.add.at(counts, truth["classes"][~truth["is_crowd"]], 1)
    return counts.tolist()


def proposal_recall(
  images: Iterable[tuple[Float[np.ndarray, "g 4"], Float[np.ndarray, "p 4"]]],
  k: int,
  iou: float = 0.5,
) -> float | None:
  """Share of ground-truth boxes that one of the first `k` proposals covers.

  Class-agnostic.  `images` yields (ground-truth boxes, proposals best first),
  XYXY.  A proposal may cover several boxes.

  Returns:
    Recall in [0, 1], or None where there is no ground-truth box at all.
  """
  covered = total = 0
  for gt_boxes, proposals in images:
    overlaps = _pairwise_iou(gt_boxes, proposals[:k])
    covered += int((overlaps.max(axis=1, initial=0.0) >= iou).sum())
    total += len(gt_boxes)
  return covered / total if total else None


def _hotcoco(truth: dict, found: dict):
  return hotcoco.COCOeval(hotcoco.COCO(truth), hotcoco.COCO(found), "bbox")


def _pycocotools(truth: dict, found: dict):
  datasets = []
  for content in (truth, found):
    dataset = pycocotools_coco.COCO()
    dataset.dataset = content
    dataset.createIndex()
    datasets.append(dataset)
  return pycocotools_cocoeval.COCOeval(*datasets, iouType="bbox")


_ENGINES = {"hotcoco": _hotcoco, "pycocotools": _pycocotools}


def mean_of_counted(values: Iterable[float | None]) -> float | None:
  """The mean of those that are not None; None if there is none."""
  counted = [value for value in values if value is not None]
  return float(np.mean(counted)) if counted else None
