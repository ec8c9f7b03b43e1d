"""What became of every image, and how well the results agree with the annotated boxes there are."""

from typing import Any

import numpy as np

from rkd_jax.ops.host import iou
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.sources import Source
from rkd_jax.teachers.proposals import recalled


def assess(source: Source, results: TeacherReader, limit: int = 20_000) -> dict[str, Any]:
  """A report on the results; for reading only, nothing is chosen by it.

  Args:
    source: the images, with or without annotated boxes.
    results: those of all its images.
    limit: so many images, evenly spaced, are counted and compared.

  Returns:
    'images': number of them; 'assessed': how many are counted in what follows; 'regions',
    'pseudo_boxes': numbers of them; 'box_recall': part of the annotated boxes that a region
    overlaps at IoU 0.5; 'pseudo_box_precision': of the pseudo boxes in images with boxes of their
    class, the part that overlaps one, both None where there is nothing to compare;
    'unreadable': reason by image id, 'dropped_boxes': reasons by image id, both of all images.
  """
  proposed, truth, right = [], [], []
  pseudo_boxes = 0
  indices = range(0, len(source), -(-len(source) // limit) if len(source) else 1)
  for i in indices:
    record = source[i]
    result = results[record.image_id]
    pseudo_boxes += len(result["pseudo_boxes/boxes"])
    proposed.append(result["regions/boxes"])
    truth.append(record.boxes[~record.is_crowd])
    for box, label in zip(result["pseudo_boxes/boxes"], result["pseudo_boxes/labels"]):
      same = record.boxes[record.classes == label]
      if len(same):
        right.append(bool((iou(box[None], same) >= 0.5).any()))
  found = recalled(proposed, truth)
  return {
    "images": len(source),
    "assessed": len(indices),
    "regions": sum(len(boxes) for boxes in proposed),
    "pseudo_boxes": pseudo_boxes,
    "box_recall": float(found.mean()) if len(found) else None,
    "pseudo_box_precision": float(np.mean(right)) if right else None,
    "unreadable": _noted(results, "unreadable"),
    "dropped_boxes": _noted(results, "dropped_boxes"),
  }


def _noted(results: TeacherReader, key: str) -> dict[str, Any]:
  return {str(i): notes[key] for i, notes in sorted(results.notes.items()) if key in notes}
