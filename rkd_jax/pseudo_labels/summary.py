"""What was retrieved, class by class, and how right it is where the records say so."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rkd_jax.ops.host import iou
from rkd_jax.pseudo_labels.candidates import Candidates
from rkd_jax.records.joined import Joined
from rkd_jax.records.results import TeacherReader

# Boxes that overlap so much are of one object.
_OVERLAP = 0.5


def stored(sources: Sequence[Joined], folder: str, wanted: Sequence[int]) -> list[Candidates]:
  """The pseudo boxes of some classes in a folder of results, the best of each class first.

  Their keys are the scores; there are no similarities and embeddings.
  """
  rows: list[tuple[float, int, int, int, int, np.ndarray]] = []
  for split, source in enumerate(sources):
    results = TeacherReader(folder, source.split)
    for row, image_id in enumerate(results.image_ids.tolist()):
      if not results.num_pseudo_boxes[row]:
        continue
      result = results.at(row)
      columns = (result[f"pseudo_boxes/{name}"] for name in ("boxes", "labels", "scores"))
      for number, (box, label, score) in enumerate(zip(*columns)):
        if label in wanted:
          rows.append((score, image_id, split, number, int(label), box))
  keys, image_ids, splits, regions, labels, boxes = zip(*rows) if rows else ((),) * 6
  found = Candidates(
    keys=np.array(keys, np.float32),
    image_ids=np.array(image_ids, np.int64),
    splits=np.array(splits, np.int64),
    regions=np.array(regions, np.int64),
    labels=np.array(labels, np.int64),
    similarities=np.full(len(rows), np.nan, np.float32),
    boxes=np.array(boxes, np.float32).reshape(-1, 4),
    embeddings=np.zeros((len(rows), 0), np.float32),
  )
  found = found.take(found.ranked())
  own = [found.take(np.flatnonzero(found.labels == number)) for number in sorted(wanted)]
  return [part for part in own if len(part)]


def assess(sources: Sequence[Joined], found: Candidates) -> dict[str, Any]:
  """How the boxes of one class lie on annotated ones; nothing is chosen by it.

  Returns:
    'precision': of the boxes in images that have annotated boxes of the class, or whose split has
    all of its boxes, the part that overlaps one of the class at IoU 0.5; 'on_another_class': of the
    boxes in images with any annotated box, the part that overlaps one of another class and none of
    its own.  None where there is nothing to compare with.
  """
  right: list[bool] = []
  wrong: list[bool] = []
  for split, image_id in sorted(set(zip(found.splits.tolist(), found.image_ids.tolist()))):
    source = sources[split]
    record = source[int(np.flatnonzero(source.index.image_ids == image_id)[0])]
    counted = ~record.is_crowd
    boxes, classes = record.boxes[counted], record.classes[counted]
    own = found.of_image(split, image_id)
    same = classes == own.labels[0]
    hit = iou(own.boxes, boxes) >= _OVERLAP
    on_own = hit[:, same].any(1)
    if same.any() or source.has_all_boxes:
      right.extend(on_own)
    if len(boxes):
      wrong.extend(hit[:, ~same].any(1) & ~on_own)
  return {
    "precision": float(np.mean(right)) if right else None,
    "on_another_class": float(np.mean(wrong)) if wrong else None,
  }


def summarize(
  sources: Sequence[Joined],
  found: Sequence[Candidates],
  wanted: Sequence[int],
  scores: Sequence[np.ndarray],
) -> dict[str, Any]:
  """By class name: 'count', 'mean_score', 'mean_similarity', and what `assess` says.

  Args:
    found: the boxes of each class that has any.
    wanted: the classes that were looked for.
    scores: of the boxes of each part of `found`.
  """
  names = sources[0].class_names
  classes: dict[str, Any] = {names[number]: {"count": 0} for number in wanted}
  for own, score in zip(found, scores):
    similarity = float(own.similarities.mean())
    classes[names[own.labels[0]]] = {
      "count": len(own),
      "mean_score": float(score.mean()),
      **({} if np.isnan(similarity) else {"mean_similarity": similarity}),
      **assess(sources, own),
    }
  return {
    "splits": [source.name for source in sources],
    "boxes": sum(map(len, found)),
    "without": [name for name, own in classes.items() if not own["count"]],
    "classes": classes,
  }


def told(summary: Mapping[str, Any]) -> str:
  """The summary as a table for people."""
  lines = [f"{'':24}   boxes   score  cosine  precision  on another class"]
  for name, own in summary["classes"].items():
    numbers = [own.get(key) for key in ("mean_score", "mean_similarity")]
    parts = [own.get(key) for key in ("precision", "on_another_class")]
    lines.append(
      f"{name:24.24} {own['count']:7} "
      + " ".join("      -" if n is None else f"{n:7.3f}" for n in numbers)
      + "".join("          -" if p is None else f"{p:11.1%}" for p in parts)
    )
  return "\n".join(lines)
