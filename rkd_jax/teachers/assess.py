"""What became of every image, and how well the results agree with the annotated boxes there are."""

from typing import Any

import numpy as np

from rkd_jax.ops.host import iou
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.sources import Source

# So many images, evenly spaced, are counted and compared.
LIMIT = 20_000


def assess(source: Source, results: TeacherReader) -> dict[str, Any]:
  """A report on the results of all images of a source; nothing is chosen by it.

  Returns:
    'images': number of them; 'assessed': how many are counted in what follows; 'regions',
    'pseudo_boxes': numbers of them; 'box_recall': part of the annotated boxes that a region
    overlaps at IoU 0.5; 'pseudo_box_precision': of the pseudo boxes in images with boxes of their
    class, the part that overlaps one, both None where there is nothing to compare;
    'unreadable': reason by image id, 'dropped_boxes': reasons by image id, both of all images.
  """
  regions, pseudo_boxes, found, right = 0, 0, [], []
  indices = range(0, len(source), max(-(-len(source) // LIMIT), 1))
  for i in indices:
    record = source[i]
    result = results[record.image_id]
    regions += len(result["regions/boxes"])
    pseudo_boxes += len(result["pseudo_boxes/boxes"])
    overlaps = iou(record.boxes[~record.is_crowd], result["regions/boxes"])
    found.extend((overlaps >= 0.5).any(1))
    for box, label in zip(result["pseudo_boxes/boxes"], result["pseudo_boxes/labels"]):
      same = record.boxes[record.classes == label]
      if len(same):
        right.append((iou(box[None], same) >= 0.5).any())
  notes = sorted(results.notes.items())
  return {
    "images": len(source),
    "assessed": len(indices),
    "regions": regions,
    "pseudo_boxes": pseudo_boxes,
    "box_recall": float(np.mean(found)) if found else None,
    "pseudo_box_precision": float(np.mean(right)) if right else None,
    **{
      key: {str(i): note[key] for i, note in notes if key in note}
      for key in ("unreadable", "dropped_boxes")
    },
  }
