"""Which detections of an image are hits at an IoU, as COCO and LVIS match them."""

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Int

from rkd_jax.ops.host import covered, iou
from rkd_jax.records.sources import Record

FALSE, HIT, IGNORED = 0, 1, 2


def match(
  record: Record,
  found: Mapping[str, np.ndarray],
  evaluated: Collection[int],
  threshold: float = 0.5,
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
  """What became of each detection of an image, and the object it has found (-1: none).

  By falling score each takes the object of its class that it overlaps most, if the IoU is at least
  the threshold and no better detection has it.  It is IGNORED where it lies in a crowd of its class
  or its class is not `evaluated`; of federated data sets (with `negative_labels`) also where the
  class was not looked for, or is not annotated exhaustively and there was no object for it.
  """
  status = np.full(len(found["boxes"]), FALSE, np.int8)
  partner = np.full(len(status), -1, np.int64)
  looked_for, partly = set(evaluated), set()
  if record.negative_labels is not None:
    looked_for &= {*record.classes.tolist(), *map(int, record.negative_labels)}
    partly = set(map(int, record.not_exhaustive_labels))
  for number in np.unique(found["classes"]).tolist():
    rows = np.flatnonzero(found["classes"] == number)
    if number not in looked_for:
      status[rows] = IGNORED
      continue
    rows = rows[np.argsort(-found["scores"][rows], kind="stable")]
    own = np.flatnonzero((record.classes == number) & ~record.is_crowd)
    crowds = record.boxes[(record.classes == number) & record.is_crowd]
    overlaps = iou(found["boxes"][rows], record.boxes[own])
    in_crowd = (covered(found["boxes"][rows], crowds) >= threshold).any(axis=1)
    for row, overlap, ignored in zip(rows, overlaps, in_crowd):
      best = overlap.argmax() if overlap.size else -1
      if overlap.size and overlap[best] >= threshold:
        status[row], partner[row] = HIT, own[best]
        overlaps[:, best] = -1  # `overlap` is a view: later detections see it
      elif ignored or number in partly:
        status[row] = IGNORED
  return status, partner
