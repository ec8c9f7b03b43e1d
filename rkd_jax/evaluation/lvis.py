"""The LVIS v1 protocol: federated box and mask AP over rare, common and frequent classes.

In an image only the classes count that LVIS has looked for there: those with an object and the
"negative" ones; other detections, and boxes and masks without area, are dropped after the cut to
the 300 best of the image.  An unmatched detection of a class that is not exhaustively annotated in
the image is no error.
hotcoco is the engine (its numbers are those of the lvis package).  Images are matched as they
come: memory holds the outcomes of matching, not the masks of all images.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as pycocotools_mask

from rkd_jax.evaluation.checks import check_image, check_new, mean_of_counted
from rkd_jax.evaluation.coco import coco_annotations
from rkd_jax.frozen.detector import encode_masks
from rkd_jax.records.sources import Record

FREQUENCIES = ("r", "c", "f")
_IOU_TYPES = {"box": "bbox", "mask": "segm"}


class LvisEvaluator:
  """Collects detections image by image, then computes LVIS AP; see `checks`.

  Args:
    class_names: of the vocabulary.
    frequencies: 'r', 'c' or 'f' of each.
    masks: evaluate masks beside boxes.
    max_detections: the best so many of an image count.

  Raises:
    ValueError: a frequency for each class is missing or unknown.
  """

  def __init__(
    self,
    class_names: Sequence[str],
    frequencies: Sequence[str],
    masks: bool = True,
    max_detections: int = 300,
  ):
    if len(frequencies) != len(class_names) or not set(frequencies) <= set(FREQUENCIES):
      raise ValueError(
        f"{len(class_names)} classes have frequencies {sorted(set(frequencies))} "
        f"({len(frequencies)} of them); expected 'r', 'c' or 'f' for each: build lvis_ovd again"
      )
    self._class_names = tuple(class_names)
    self._frequencies = tuple(frequencies)
    self._max_detections = max_detections
    self._num_gt = np.zeros(len(class_names), np.int64)
    self._seen: set[int] = set()
    categories = [
      {"id": index + 1, "name": name, "frequency": frequency}
      for index, (name, frequency) in enumerate(zip(class_names, frequencies))
    ]
    self._streams = {
      name: hotcoco.StreamingEval(
        categories, iou_type, lvis_style=True, params=_params(iou_type, max_detections)
      )
      for name, iou_type in _IOU_TYPES.items()
      if name == "box" or masks
    }

  def add(self, record: Record, found: Mapping[str, np.ndarray]) -> None:
    """Adds one image.

    Args:
      record: the image, its objects (with polygons, for masks), the classes looked for that are
        not there (`negative_labels`), and those that have objects without annotation
        (`not_exhaustive_labels`).
      found: the detections, for masks with `masks` [n, m, m], probabilities in the boxes' frames.

    Raises:
      ValueError: masks or polygons are missing, or see `checks.check_image`.
    """
    masks, polygons = found.get("masks"), record.polygons
    image_id, truth, found = check_image(record, found, self._seen, len(self._class_names))
    for name, given, count in (
      ("polygons", polygons, len(truth["boxes"])),
      ("masks", masks, len(found["boxes"])),
    ):
      if "mask" in self._streams and (given is None or len(given) != count):
        raise ValueError(
          f"image {image_id}: {name} has {None if given is None else len(given)} rows, expected "
          f"{count}: use records with polygons and a detector with a mask head, or masks=False"
        )
    self._seen.add(image_id)
    np.add.at(self._num_gt, truth["classes"], 1)
    counted = self._counted(found, {*truth["classes"].tolist(), *map(int, record.negative_labels)})
    height, width = int(record.height), int(record.width)
    image = {
      "id": image_id,
      "height": height,
      "width": width,
      "neg_category_ids": [int(c) + 1 for c in record.negative_labels],
      "not_exhaustive_category_ids": [int(c) + 1 for c in record.not_exhaustive_labels],
    }
    objects = coco_annotations(image_id, truth, range(len(truth["boxes"])))
    detections = coco_annotations(image_id, found, counted)
    for name, stream in self._streams.items():
      if name == "mask":
        # An object without polygons covers nothing: one run of zeros.
        empty = {"size": [height, width], "counts": [height * width]}
        outlines = [[polygon.ravel().tolist() for polygon in own] or empty for own in polygons]
        runs = encode_masks(masks[counted], found["boxes"][counted], height, width)
        objects = [o | {"segmentation": s} for o, s in zip(objects, outlines)]
        # As the lvis package does: a mask without a pixel is no false positive.
        detections = [
          {k: v for k, v in d.items() if k != "bbox"} | {"segmentation": s}
          for d, s in zip(detections, runs)
          if pycocotools_mask.area(s)
        ]
      stream.update([image], objects, detections)

  def _counted(self, found: dict[str, np.ndarray], classes: set[int]) -> Int[np.ndarray, "k"]:
    """Detections with an area among the best of the image, of the classes looked for there."""
    best = np.argsort(-found["scores"], kind="stable")[: self._max_detections]
    has_area = (found["boxes"][best, 2:] > found["boxes"][best, :2]).all(axis=1)
    return best[has_area & np.isin(found["classes"][best], list(classes))]

  def merge(self, other: "LvisEvaluator") -> None:
    """Adds the images of another one."""
    check_new(other._seen, self._seen)
    self._seen |= other._seen
    for name, stream in self._streams.items():
      self._streams[name] = hotcoco.StreamingEval.merge([stream, other._streams[name]])
    self._num_gt += other._num_gt

  def compute(self) -> dict[str, Any]:
    """AP averaged over IoU 0.5:0.95, in percent, of boxes and (if evaluated) masks.

    Call it once, after the last image.

    Returns:
      For each of box and mask {'box_AP', 'box_APr', 'box_APc', 'box_APf', 'box_AP50',
      'box_AP75'}, and 'per_class': {name: {'frequency', 'num_gt', 'box_AP', 'mask_AP'}}.

    Raises:
      ValueError: no image was added.
    """
    if not self._seen:
      raise ValueError("no image was added; nothing to evaluate")
    per_class = {
      name: {"frequency": frequency, "num_gt": int(count)}
      for name, frequency, count in zip(self._class_names, self._frequencies, self._num_gt)
    }
    means, columns = {}, range(len(self._class_names))
    for name, stream in self._streams.items():
      precision = _precision(stream)
      aps = [self._ap(precision, column) for column in columns]
      for entry, ap in zip(per_class.values(), aps):
        entry[f"{name}_AP"] = ap
      means[f"{name}_AP"] = mean_of_counted(aps)
      for group in FREQUENCIES:
        own = (ap for ap, frequency in zip(aps, self._frequencies) if frequency == group)
        means[f"{name}_AP{group}"] = mean_of_counted(own)
      for percent, threshold in ((50, 0), (75, 5)):
        at_one = [self._ap(precision[threshold : threshold + 1], column) for column in columns]
        means[f"{name}_AP{percent}"] = mean_of_counted(at_one)
    return {**means, "per_class": per_class}

  def _ap(self, precision: Float[np.ndarray, "iou recall c"], column: int) -> float | None:
    return 100.0 * float(precision[:, :, column].mean()) if self._num_gt[column] else None


def _params(iou_type: str, max_detections: int) -> hotcoco.Params:
  """LVIS' parameters, of all areas together."""
  params = hotcoco.Params(iou_type)
  params.area_rng, params.area_rng_lbl = [[0.0, 1e10]], ["all"]
  params.max_dets = [max_detections]
  return params


def _precision(stream: hotcoco.StreamingEval) -> Float[np.ndarray, "iou recall c"]:
  with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    # Of the number of detections and the areas, which differ from COCO's on purpose.
    warnings.simplefilter("ignore")
    evaluation = stream.finalize()
    evaluation.accumulate()
  return np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
