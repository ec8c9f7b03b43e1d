"""Where things are in a folder that somebody brings: the folders in it, images, split names."""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rkd_jax.records.decoding import SUFFIXES

_Name = TypeVar("_Name")
_ROLES = {
  "train": ("train", "training"),
  "validation": ("val", "valid", "validation", "dev"),
  "test": ("test", "testing"),
}
# What is looked at of a folder, which may be somebody's whole disk.
_MOST_FOLDERS = 2000
_SAMPLE = 50
_SHOWN = 12


def role(name: str | os.PathLike) -> str | None:
  """'train', 'validation' or 'test' where a path has such a word, the last of them; else None.

  'instances_train2017.json' and 'valid/images' have one, 'trains/a.jpg' has none.
  """
  words = re.findall(r"[a-z]+", os.fspath(name).lower())
  found = (key for word in reversed(words) for key, names in _ROLES.items() if word in names)
  return next(found, None)


def folders(top: Path, depth: int) -> list[Path]:
  """A folder and those below it down to `depth`, nearest first, without hidden ones."""

  def below(folder: Path) -> Iterator[Path]:
    try:
      inner = sorted(name for name in os.listdir(folder) if os.path.isdir(folder / name))
    except PermissionError:
      inner = []
    return (folder / name for name in inner if not name.startswith("."))

  found = level = [top]
  for _ in range(depth):
    level = list(itertools.islice(itertools.chain.from_iterable(map(below, level)), _MOST_FOLDERS))
    found = [*found, *level]
  return found


def files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
  """The files of a folder that end so, in either case, sorted and without hidden ones."""
  names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
  return [folder / name for name in names if name.lower().endswith(tuple(suffixes))]


def images(folder: Path) -> list[Path]:
  """The image files of a folder, sorted."""
  return files(folder, SUFFIXES)


def choose_folder(
  candidates: Sequence[Path],
  names: Sequence[_Name],
  has: Callable[[Path, _Name], bool],
  wanted: str | None = None,
) -> Path | None:
  """The candidate that has most of the names, or of fifty of them; None where all have none.

  Among equals the first whose path names the split `wanted`, else the first.
  """
  names = names[:: -(-len(names) // _SAMPLE) or 1]
  counts = [sum(has(folder, name) for name in names) for folder in candidates]
  most = max(counts, default=0) or math.inf
  best = [folder for folder, count in zip(candidates, counts) if count == most]
  named = [folder for folder in best if wanted is not None and role(folder) == wanted]
  return next(iter((*named, *best)), None)


def listed(paths: Sequence[Path]) -> str:
  """Some of the paths, for messages."""
  more = len(paths) - _SHOWN
  return ", ".join(map(str, paths[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
