"""Records with the teachers' results, which lie in a folder of their own, joined as they are read.

That they belong together is known from the two indices, before the first record is read.
"""

import dataclasses
import functools
import itertools
import os

import numpy as np
from absl import logging
from jaxtyping import Int

from rkd_jax.records.index import Index
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.sources import Record, Selection, Source, with_results


class Joined(Selection):
  """Some records of a source, each with its result, as a source; `results` has all of these."""

  has_results = True

  def __init__(self, source: Source, results: TeacherReader, rows: Int[np.ndarray, "n"]):
    """`rows` says where the result of each record is, -1 for those to leave out; see `join`."""
    super().__init__(source, np.flatnonzero(rows >= 0))
    self.results, self._rows = results, rows[rows >= 0]

  def __getitem__(self, index: int) -> Record:
    """As `Source`; ValueError also where the result is damaged."""
    return with_results(super().__getitem__(index), self.result(index))

  def result(self, index: int) -> dict[str, np.ndarray]:
    """The result of a record alone (`results.FIELDS`), without reading the record."""
    return self.results.at(self._rows[index])

  @property
  def identity(self) -> str:
    """The same for the same records with the same results, wherever they lie."""
    return f"{self._source.identity}{self.results.identity}"

  @functools.cached_property
  def index(self) -> Index:
    """That of the records, with the number of pseudo boxes of their results."""
    counts = self.results.num_pseudo_boxes[self._rows]
    return dataclasses.replace(self._source.index.take(self._positions), num_pseudo_boxes=counts)


def join(
  source: Source,
  folder: str | os.PathLike,
  embedding_dim: int | None = None,
  labels: bool = True,
  skip_missing: bool = False,
) -> Joined:
  """The records with the results that `rkd_jax.precompute` wrote for their split.

  Args:
    source: the records.
    folder: of the results of all splits.
    embedding_dim: width that embeddings must have, None where they are not used.
    labels: whether pseudo boxes are used, whose labels then must be numbers of the same classes.
    skip_missing: leave out images without results, with a counted warning.

  Raises:
    ValueError: the results are missing, not complete or damaged, those of other images or classes,
      or of a CLIP of another width.
  """
  command = (
    f"python -m rkd_jax.precompute --data_dir={source.data_dir} --dataset={source.dataset} "
    f"--splits={source.split} --clip=CLIP --output={folder}"
  )
  results = TeacherReader(folder, source.split, command)
  elsewhere = f"{command.rpartition('=')[0]}=FOLDER"
  index = source.index_with_ids()
  rows = results.rows(index.image_ids)
  if foreign := _foreign(source, index, results, rows):
    raise ValueError(
      f"{results.folder} was made for another data set: {foreign}. Set config.data.teachers (or "
      f"config.data.KIND.teachers) to the results of these images, or make them in another folder: "
      f"{elsewhere}"
    )
  if embedding_dim not in (None, results.embedding_dim):
    raise ValueError(
      f"{results.folder}: embeddings are {results.embedding_dim} wide, "
      f"model.classifier.embedding_dim is {embedding_dim}: take results of the CLIP whose class "
      f"embeddings are used, or make them in another folder: {elsewhere}"
    )
  if labels:
    _check_classes(source, results)
  if missing := int((rows < 0).sum()):
    if not skip_missing:
      raise ValueError(
        f"{results.folder} has no results for {missing:,} of the {len(source):,} images of "
        f"{source.name}, such as image {index.image_ids[rows < 0][0]}. Make them: {command} (or "
        "leave these images out: --config.data.skip_missing_results=True)"
      )
    counted = missing, len(source), source.name, results.folder
    logging.warning("Left out %d of %d images of %s, which have no results in %s.", *counted)
  return Joined(source, results, rows)


def _foreign(
  source: Source, index: Index, results: TeacherReader, rows: Int[np.ndarray, "n"]
) -> str | None:
  """Why the results are those of other images, if they are."""
  there = rows >= 0
  if not there.any():
    return (
      f"none of its {len(results):,} results is for one of the {len(source):,} images of "
      f"{source.name}"
    )
  seen, now = results.checksums[rows[there]], index.checksums[there]
  others = (seen >= 0) & (now >= 0) & (seen != now)
  if not others.any():
    return None
  return (
    f"of its {len(results):,} results {int(there.sum()):,} have an image id of {source.name} "
    f"({len(source):,} images), but {int(others.sum()):,} were made for another image of that id, "
    f"such as {index.image_ids[there][others][0]}"
  )


def _check_classes(source: Source, results: TeacherReader) -> None:
  """Raises ValueError where pseudo labels are numbers of other classes."""
  if not results.class_names:
    return
  pairs = itertools.zip_longest(results.class_names, source.class_names)
  for number, (theirs, ours) in enumerate(pairs):
    if theirs != ours:
      raise ValueError(
        f"{results.folder} has pseudo boxes for {len(results.class_names)} classes, of which class "
        f"{number} is {theirs!r}; in {source.name} ({len(source.class_names)} classes) it is "
        f"{ours!r}. Take results that were made for these classes."
      )
