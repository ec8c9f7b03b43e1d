"""What all evaluators do: check the classes and images they are given, and average.

An evaluator is made for `class_names`, the C names of the vocabulary, which classes index.  `add`
takes a record, its annotated objects with it, and what was found in its image: `boxes` [n, 4] (XYXY
in pixels of the record's image), `scores` and `classes`, in any order; `compute` gives APs in
percent, as in the paper's tables.  A class without ground truth has None there and is left out of
the means, and a mean over no class is None.  Images are counted by rising id, so that ties of
scores do not depend on the order of `add`.  `merge` adds the images of another evaluator that was
made for the same, perhaps in another process: evaluators can be pickled.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from rkd_jax.records.sources import Record


def check_new(image_ids: Iterable[int], seen: Collection[int]) -> None:
  """Raises ValueError if an image was seen before."""
  for image_id in image_ids:
    if image_id in seen:
      raise ValueError(f"image {image_id} was added twice; give every image once")


def check_image(
  record: Record,
  found: Mapping[str, np.ndarray],
  seen: Collection[int],
  columns: int,
  truth: Sequence[str] = ("boxes", "classes"),
) -> tuple[int, dict[str, np.ndarray], dict[str, np.ndarray]]:
  """The id and arrays of an image, ready to use: of its annotated objects, and of what was found.

  Args:
    record: the image.
    found: the detections.
    seen: ids of the images before it.
    columns: the number of classes.
    truth: fields of the record that are needed, a row per object.

  Raises:
    ValueError: the image was seen before, array lengths differ, a class is not a column, or a
      value is not finite.
  """
  image_id = int(record.image_id)
  check_new([image_id], seen)
  objects = {name: np.asarray(getattr(record, name)) for name in truth}
  detections = {name: np.asarray(found[name]) for name in ("boxes", "classes", "scores")}
  return (
    image_id,
    _checked(f"image {image_id}, ground truth", columns, objects),
    _checked(f"image {image_id}, detections", columns, detections),
  )


def _checked(what: str, columns: int, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays, classes as int64 and crowds as bool, or a ValueError that says which is wrong."""
  count = len(arrays["boxes"])
  for name, array in arrays.items():
    expected = (count, 4) if name == "boxes" else (count,)
    if array.shape != expected:
      raise ValueError(f"{what}: {name} have shape {array.shape}, expected {expected}")
    if not np.isfinite(array).all():
      rows = np.flatnonzero(~np.isfinite(array).reshape(count, -1).all(axis=1))
      raise ValueError(
        f"{what}: {name} are not finite in rows {rows[:5].tolist()}; "
        "check the annotations or the checkpoint that this comes from"
      )
  classes = arrays["classes"]
  if count and not (classes.min() >= 0 and classes.max() < columns):
    raise ValueError(
      f"{what}: classes span {classes.min()}..{classes.max()}, expected 0..{columns - 1}"
    )
  if "is_crowd" in arrays:
    arrays["is_crowd"] = arrays["is_crowd"].astype(bool)
  return {**arrays, "classes": classes.astype(np.int64)}


def mean_of_counted(values: Iterable[float | None]) -> float | None:
  """The mean of those that are not None; None if there is none."""
  counted = [value for value in values if value is not None]
  return float(np.mean(counted)) if counted else None
