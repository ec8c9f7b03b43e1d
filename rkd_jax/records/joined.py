"""Records with the teachers' results, which lie in a folder of their own, joined as they are read.

That they belong together is known from the two indices, before the first record is read.
"""

import dataclasses
import functools
import itertools
import os
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int

from rkd_jax.records.index import Index
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.sources import Record, Selection, Source, with_results


class Joined:
  """The records of a source, each with its result, as a source."""

  has_results = True

  def __init__(
    self, source: Source | Selection, results: TeacherReader, rows: Int[np.ndarray, "n"]
  ):
    """`rows` says where the result of each record is; see `join`."""
    self._source, self._results, self._rows = source, results, rows

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    """As `Source`.

    Raises:
      IndexError: there is no such position.
      ValueError: the record or the result is damaged.
    """
    record = self._source[index]
    return with_results(record, self._results.at(self._rows[index]))

  @functools.cached_property
  def index(self) -> Index:
    """That of the records, with the number of pseudo boxes of their results."""
    counts = self._results.num_pseudo_boxes[self._rows]
    return dataclasses.replace(self._source.index, num_pseudo_boxes=counts)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)


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
    skip_missing: images without results are left out, with a warning that counts them; else they
      are an error.

  Raises:
    ValueError: the results are missing, not complete or damaged, those of other images or classes,
      or of a CLIP of another width.
  """
  command = (
    f"python -m rkd_jax.precompute --data_dir={source.data_dir} --dataset={source.dataset} "
    f"--splits={source.split} --clip=CLIP --output={folder}"
  )
  results = TeacherReader(folder, source.split, command)
  index = source.index_with_ids()
  rows = results.rows(index.image_ids)
  there = rows >= 0
  _check_images(source, index, results, rows, command)
  if embedding_dim not in (None, results.embedding_dim):
    raise ValueError(
      f"{results.folder}: embeddings are {results.embedding_dim} wide, "
      f"model.classifier.embedding_dim is {embedding_dim}: take results of the CLIP whose class "
      f"embeddings are used, or make them in another folder: {command.rpartition('=')[0]}=FOLDER"
    )
  if labels:
    _check_classes(source, results)
  if there.all():
    return Joined(source, results, rows)
  missing = int((~there).sum())
  if not skip_missing:
    raise ValueError(
      f"{results.folder} has no results for {missing:,} of the {len(source):,} images of "
      f"{source.name}, such as image {index.image_ids[~there][0]}. Make them: {command} (or leave "
      "these images out: --config.data.skip_missing_results=True)"
    )
  logging.warning(
    "Left out %d of %d images of %s, which have no results in %s.",
    missing,
    len(source),
    source.name,
    results.folder,
  )
  return Joined(Selection(source, np.flatnonzero(there)), results, rows[there])


def _check_images(
  source: Source, index: Index, results: TeacherReader, rows: Int[np.ndarray, "n"], command: str
) -> None:
  """Raises ValueError for results of other images, or of none of the source's."""
  there = rows >= 0
  seen, now = results.checksums[rows[there]], index.checksums[there]
  others = (seen >= 0) & (now >= 0) & (seen != now)
  if there.any() and not others.any():
    return
  if there.any():
    number = index.image_ids[there][others][0]
    found = (
      f"of its {len(results):,} results {int(there.sum()):,} have an image id of {source.name} "
      f"({len(source):,} images), but {int(others.sum()):,} were made for another image of that "
      f"id, such as {number}"
    )
  else:
    found = (
      f"none of its {len(results):,} results is for one of the {len(source):,} images of "
      f"{source.name}"
    )
  raise ValueError(
    f"{results.folder} was made for another data set: {found}. Set config.data.teachers (or "
    "config.data.KIND.teachers) to the results of these images, or make them in another folder: "
    f"{command.rpartition('=')[0]}=FOLDER"
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
