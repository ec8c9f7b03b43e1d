"""Results of teachers with other pseudo boxes, in a folder that training reads like theirs."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from rkd_jax.ops.host import iou
from rkd_jax.records.joined import Joined
from rkd_jax.records.results_writer import TeacherWriter

# Raised when a change to the code changes the results, so that no folder mixes the two.
CODE_VERSION = 1
# Of one class in one image, boxes that overlap more than this are one object.
SAME_OBJECT = 0.5


class Labelled(NamedTuple):
  """Boxes of an image, each with a class, the best first."""

  boxes: Float[np.ndarray, "p 4"]
  labels: Int[np.ndarray, "p"]
  scores: Float[np.ndarray, "p"]


def of_result(result: Mapping[str, np.ndarray]) -> Labelled:
  """The pseudo boxes of a stored result."""
  return Labelled(*(result[f"pseudo_boxes/{name}"] for name in Labelled._fields))


def behind(first: Labelled, second: Labelled) -> Labelled:
  """Both, the second behind the first, without those of it that are a box of the first again."""
  again = (iou(second.boxes, first.boxes) > SAME_OBJECT) & (
    second.labels[:, None] == first.labels[None]
  )
  new = np.flatnonzero(~again.any(1))
  return Labelled(*(np.concatenate([a, b[new]]) for a, b in zip(first, second)))


def open_writer(
  folder: str,
  source: Joined,
  settings: Mapping[str, Any],
  embedding_dtype: str = "float32",
  records_per_shard: int = 512,
) -> TeacherWriter:
  """The writer of a split; ValueError where the folder holds what was made with other settings.

  `settings` are what decides the pseudo boxes beside the teachers' results, as JSON values.
  """
  metadata = {
    **source.results.metadata,
    "pseudo_labels": {"code_version": CODE_VERSION, "of": source.results.identity, **settings},
  }
  return TeacherWriter(
    folder,
    source.split,
    source.results.embedding_dim,
    metadata,
    records_per_shard,
    total=len(source),
    class_names=source.class_names,
    embedding_dtype=embedding_dtype,
  )


def write(
  source: Joined,
  writer: TeacherWriter,
  labelled: Callable[[Iterable[int]], Iterable[Labelled]],
  keep: bool = False,
) -> None:
  """Copies the results of a split, with other pseudo boxes; what is there already stays.

  Args:
    source: a split with the teachers' results.
    writer: that of `open_writer`.
    labelled: gives the pseudo boxes of the records with some numbers, in their order.
    keep: those of the teachers stay, and the others come behind them.
  """
  image_ids = source.index.image_ids
  missing = [i for i, image_id in enumerate(image_ids.tolist()) if image_id not in writer]
  bar = tqdm(total=len(source), initial=len(source) - len(missing), unit=" images", mininterval=2)
  with writer, bar:
    for index, found in zip(missing, labelled(missing)):
      image_id = int(image_ids[index])
      result = source.result(index)
      if keep:
        found = behind(of_result(result), found)
      own = {
        "pseudo_boxes/boxes": np.asarray(found.boxes, np.float32).reshape(-1, 4),
        "pseudo_boxes/labels": np.asarray(found.labels, np.int64),
        "pseudo_boxes/scores": np.asarray(found.scores, np.float32),
      }
      (row,) = source.results.rows([image_id])
      checksum = int(source.results.checksums[row])
      notes = source.results.notes.get(image_id)
      writer.write(image_id, {**result, **own}, index, notes, checksum)
      bar.update(1)
