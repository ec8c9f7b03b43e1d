"""The offline step in ranges of images that can be made anywhere, for engines such as Beam.

A range becomes a part beside those of `rkd_jax.precompute`, equal to them record by record.
Workers open data and teachers by path once per process, so both must be where all of them can
read, and the output where they can write.
"""

import functools
import uuid
from collections.abc import Container

from etils import epath

from rkd_jax.records.results_writer import ResultPart
from rkd_jax.teachers.images import prepare
from rkd_jax.teachers.pipeline import GROUP, check_read, groups, to_write
from rkd_jax.teachers.settings import Settings, open_teachers

# First and end position, and those in between that are done, which are not all.
Range = tuple[int, int, tuple[int, ...]]

_open_teachers = functools.lru_cache(maxsize=1)(open_teachers)


def missing_ranges(count: int, done: Container[int], size: int) -> list[Range]:
  """What is to be done of `count` images, in ranges of about `size` that begin with a group."""
  size = -(-size // GROUP) * GROUP
  ranges = []
  for start in range(0, count, size):
    stop = min(start + size, count)
    there = tuple(position for position in range(start, stop) if position in done)
    if len(there) < stop - start:
      ranges.append((start, stop, there))
  return ranges


def write_range(settings: Settings, split: str, output: str, positions: Range) -> int:
  """Writes the results of a range to a part of its own, in this thread; returns their number.

  The part appears when it is complete, so that an engine may do this twice or at several places at
  once.
  """
  start, stop, done = positions
  source, proposer, encoder, class_embeddings, width, _ = _open_teachers(settings, split)
  # What begins with a position that is not done can replace no part but its own.
  first = min(set(range(start, stop)).difference(done))
  name, partial = f"beam-{first:09d}", uuid.uuid4().hex
  part = ResultPart(epath.Path(output) / split, name, partial, (width, settings.embedding_dtype))
  how = (proposer, source.class_names, encoder.image_size, settings.options)
  for group in groups(range(start, stop)):
    images = [prepare(source[position], *how) for position in group]
    if not settings.skip_bad_images:
      check_read(images)
    found = to_write(images, group, encoder, class_embeddings, settings.options)
    for position, result in zip(group, found):
      if position not in done:
        part.add(*result)
  part.close()
  return len(part)
