"""The OV-COCO protocol: box AP over novel, base and all annotated classes.

The detector scores every class of the vocabulary (80 columns on COCO); the annotations cover base
and novel classes only (48 + 17).  Detections of the remaining classes are dropped here, after the
detector's top-100 cut, as the original does by evaluating against an annotation file of 65
categories.
"""

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Float
from pycocotools import coco, cocoeval

from rkd_jax.evaluation.checks import check_image, check_new, mean_of_counted
from rkd_jax.records.class_names import check_split
from rkd_jax.records.sources import Record


class CocoEvaluator:
  """Collects detections image by image, then computes COCO box AP; see `checks`.

  Args:
    class_names: of the vocabulary.
    base: names annotated in training.
    novel: names annotated in evaluation only; disjoint from `base`.
    engine: 'hotcoco', which matches images as they come and keeps the outcomes alone, or
      'pycocotools', the reference, which keeps all boxes (some kB a detection); equal numbers.
    max_detections: cap per image and class, COCO's maxDets.

  Raises:
    ValueError: a base or novel name is no class, or is in both lists; an unknown engine.
  """

  def __init__(
    self,
    class_names: Sequence[str],
    base: Sequence[str],
    novel: Sequence[str],
    engine: str = "hotcoco",
    max_detections: int = 100,
  ):
    if engine not in ("hotcoco", "pycocotools"):
      raise ValueError(f"engine is {engine!r}; expected 'hotcoco' or 'pycocotools'")
    check_split(class_names, base, novel)
    self._class_names = tuple(class_names)
    self._groups = {"novel": novel, "base": base, "all": (*base, *novel)}
    self._evaluated = [i for i, name in enumerate(class_names) if name in self._groups["all"]]
    self._max_detections = max_detections
    self._num_gt = np.zeros(len(class_names), np.int64)  # without crowds
    self._categories = [{"id": index + 1, "name": class_names[index]} for index in self._evaluated]
    self._stream = None
    if engine == "hotcoco":
      params = hotcoco.Params("bbox")
      params.area_rng, params.area_rng_lbl = [[0.0, 1e10]], ["all"]
      params.max_dets = [max_detections]
      self._stream = hotcoco.StreamingEval(self._categories, "bbox", params=params)
    # Height, width, annotated objects and detections, for pycocotools.
    self._images: dict[int, Any] = {}

  def add(self, record: Record, found: Mapping[str, np.ndarray]) -> None:
    """Adds one image; its objects have areas, and may be crowds.

    Raises:
      ValueError: see `checks.check_image`.
    """
    columns, fields = len(self._class_names), ("boxes", "classes", "areas", "is_crowd")
    image_id, truth, found = check_image(record, found, self._images, columns, fields)
    np.add.at(self._num_gt, truth["classes"][~truth["is_crowd"]], 1)
    height, width = int(record.height), int(record.width)
    if self._stream is None:
      self._images[image_id] = height, width, truth, found
      return
    self._images[image_id] = None
    image = {"id": image_id, "height": height, "width": width}
    self._stream.update([image], self._rows(image_id, truth), self._rows(image_id, found))

  def _rows(self, image_id: int, arrays: dict[str, np.ndarray], first_id: int = 1) -> list[dict]:
    rows = np.flatnonzero(np.isin(arrays["classes"], self._evaluated))
    return coco_annotations(image_id, arrays, rows, first_id)

  def merge(self, other: "CocoEvaluator") -> None:
    """Adds the images of another one."""
    check_new(other._images, self._images)
    self._images |= other._images
    if self._stream is not None:
      self._stream = hotcoco.StreamingEval.merge([self._stream, other._stream])
    self._num_gt += other._num_gt

  def compute(self) -> dict[str, Any]:
    """AP at IoU 0.5 and averaged over 0.5:0.95, in percent; call it once, after the last image.

    Returns:
      {'AP50_novel', 'AP50_base', 'AP50_all', 'AP_novel', 'AP_base', 'AP_all',
      'per_class': {name: {'AP50', 'AP', 'num_gt'}}}, without crowds.

    Raises:
      ValueError: no image was added.
    """
    if not self._images:
      raise ValueError("no image was added; nothing to evaluate")
    precision = self._precision()
    per_class = {}
    for column, index in enumerate(self._evaluated):
      values = precision[:, :, column]
      counted = bool((values > -1).all())
      per_class[self._class_names[index]] = {
        "AP50": 100.0 * float(values[0].mean()) if counted else None,
        "AP": 100.0 * float(values.mean()) if counted else None,
        "num_gt": int(self._num_gt[index]),
      }
    means = {
      f"{metric}_{group}": mean_of_counted(per_class[name][metric] for name in names)
      for metric in ("AP50", "AP")
      for group, names in self._groups.items()
    }
    return {**means, "per_class": per_class}

  def _precision(self) -> Float[np.ndarray, "iou recall k"]:
    """Interpolated precision per IoU threshold, recall point and evaluated class."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
      # Of areas and numbers of detections that are not COCO's.
      warnings.simplefilter("ignore")
      evaluation = self._by_pycocotools() if self._stream is None else self._stream.finalize()
      evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]

  def _by_pycocotools(self) -> cocoeval.COCOeval:
    # Ranks, because it takes an id of 0 for "unmatched".
    images, truth, found = [], [], []
    for rank, image_id in enumerate(sorted(self._images), start=1):
      height, width, *both = self._images[image_id]
      images.append({"id": rank, "height": height, "width": width})
      for annotations, arrays in zip((truth, found), both):
        annotations += self._rows(rank, arrays, first_id=len(annotations) + 1)
    datasets = coco.COCO(), coco.COCO()
    for dataset, annotations in zip(datasets, (truth, found)):
      content = {"images": images, "categories": self._categories, "annotations": annotations}
      dataset.dataset = content  # pyright: ignore[reportAttributeAccessIssue]
      dataset.createIndex()
    evaluation = cocoeval.COCOeval(*datasets, iouType="bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0.0, 1e10]], ["all"]
    evaluation.params.maxDets = [self._max_detections]
    evaluation.evaluate()
    return evaluation


def coco_annotations(
  image_id: int, arrays: Mapping[str, np.ndarray], rows: Iterable[int], first_id: int = 1
) -> list[dict[str, Any]]:
  """COCO's dicts (xywh, category ids from 1) of some rows of an image's objects or detections.

  Without `areas` the area is that of the box, without `is_crowd` nothing is a crowd.
  """
  boxes = arrays["boxes"].astype(np.float64)
  sizes = boxes[:, 2:] - boxes[:, :2]
  annotations = []
  for annotation_id, i in enumerate(rows, start=first_id):
    annotation = {
      "id": annotation_id,
      "image_id": image_id,
      "category_id": int(arrays["classes"][i]) + 1,
      "bbox": [*boxes[i, :2].tolist(), *sizes[i].tolist()],
      "area": float(arrays["areas"][i]) if "areas" in arrays else float(sizes[i].prod()),
      "iscrowd": int(arrays["is_crowd"][i]) if "is_crowd" in arrays else 0,
    }
    if "scores" in arrays:
      annotation["score"] = float(arrays["scores"][i])
    annotations.append(annotation)
  return annotations
