"""Proposals from a trained detector (the paper's ablation of its proposals) and from files."""

import os
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from rkd_jax.files import checksums
from rkd_jax.frozen.detector import Detector
from rkd_jax.inputs.examples import collate, picture_example
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.ops.host import iou, suppress
from rkd_jax.records.results import TeacherReader
from rkd_jax.runs.config import restore_config
from rkd_jax.teachers.proposals import Proposed, PseudoBoxes, check_image


class DetectorProposer:
  """The class-agnostic proposals of a trained detector's RPN, best first.

  Scores are probabilities of being any object.  Boxes lie inside the image.  Calls from several
  threads use all local devices.

  Args:
    workdir: of the detector's run, or of a converted checkpoint.
    top: most proposals per image.
    nms_threshold: greatest IoU between two proposals, below that of the RPN itself, as RKD does
      with the multi-modal ViT's.

  Raises:
    CheckpointError: there is no such run.
  """

  in_workers: ClassVar[bool] = False

  def __init__(self, workdir: str | os.PathLike, top: int = 50, nms_threshold: float = 0.5):
    config = restore_config(workdir)
    self._detector = Detector.restore(config, os.fspath(workdir))
    self._spec = detector_specs(config)["eval"]
    self._top, self._nms_threshold = top, nms_threshold

  def propose(self, image: UInt8[np.ndarray, "h w 3"]) -> Proposed:
    """At most `top` boxes.

    Raises:
      ValueError: not uint8 [h, w, 3], or resized it does not fit the canvas of the config.
    """
    check_image(image)
    found = self._detector.propose(collate([picture_example(image, self._spec, "image")]))
    boxes, logits = found.boxes[0][found.valid[0]], found.logits[0][found.valid[0]]
    kept = suppress(iou(boxes, boxes), logits, self._nms_threshold)[: self._top]
    scores = 1 / (1 + np.exp(-np.asarray(logits[kept], np.float64)))
    return boxes[kept], scores.astype(np.float32)

  def describe(self) -> dict[str, Any]:
    return {
      "name": type(self).__name__,
      "checkpoint": checksums.of_arrays(self._detector.variables),
      "short_side": self._spec.short_sides[0],
      "max_side": self._spec.max_side,
      "top": self._top,
      "nms_threshold": self._nms_threshold,
    }


class StoredProposals:
  """What another offline run found, its pseudo boxes included, to be embedded with another CLIP."""

  in_workers: ClassVar[bool] = False

  def __init__(self, results: TeacherReader):
    self._results = results

  def recall(self, image_id: int) -> tuple[Proposed, PseudoBoxes]:
    """See `Recorded`; a ValueError says that the other run has no results for the image."""
    record = self._results[image_id]
    regions = record["regions/boxes"], record["regions/scores"]
    return regions, PseudoBoxes(*(record[f"pseudo_boxes/{key}"] for key in PseudoBoxes._fields))

  def describe(self) -> dict[str, Any]:
    return {"name": type(self).__name__, "results": self._results.metadata}
