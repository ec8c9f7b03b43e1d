"""The offline step in ranges of images that can be made anywhere, for engines such as Beam.

A range becomes a part beside those of `rkd_jax.precompute`, equal to them record by record.
Workers open data and teachers by path once per process, so both must be where all of them can
read, and the output where they can write.
"""

import functools
from collections.abc import Container

from etils import epath

from rkd_jax.teachers.pipeline import GROUP, write_part
from rkd_jax.teachers.settings import Settings, open_teachers

# First and end position, and those in between that are done.
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
  """Writes the results of a range to a part of its own; returns their number."""
  start, stop, done = positions
  teachers = _open_teachers(settings, split)
  return write_part(
    epath.Path(output) / split,
    range(start, stop),
    frozenset(done),
    *teachers[:4],
    (teachers.embedding_dim, settings.embedding_dtype),
    settings.options,
  )
