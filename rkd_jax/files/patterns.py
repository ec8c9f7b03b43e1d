"""Files that a user names: one, a folder of them, or a pattern."""

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def find_files(given: str, suffixes: Sequence[str]) -> list[Path]:
  """The files that are meant, sorted, under the names that they are given by.

  What exists is taken as it is: a file of any name, or of a folder those that end in one of
  `suffixes` (of either case, hidden ones not).  Anything else is a pattern of `*`, `?`, `[...]` and
  `**`, which goes into subfolders; there, too, a part that exists is no pattern.  Symbolic links
  are followed and keep their own names; one that leads nowhere is among the files, a folder is not.

  Raises:
    OSError: a folder cannot be read.
  """
  place = Path(given if os.path.lexists(given) else os.path.expanduser(given))
  if place.is_dir():
    entries = [place / name for name in _names(place, "*")]
    found = [entry for entry in entries if entry.suffix.lower() in suffixes]
  elif os.path.lexists(place):
    found = [place]
  else:
    found = _matching(Path(place.anchor), place.relative_to(place.anchor).parts)
  return sorted({path for path in found if not path.is_dir()})


def _matching(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
  """Everything under a folder that fits the parts of a path or pattern."""
  if not parts:
    yield folder
    return
  part, rest = parts[0], parts[1:]
  if os.path.lexists(folder / part):
    yield from _matching(folder / part, rest)
  elif part == "**":
    for inner in _folders(folder, ()):
      yield from _matching(inner, rest or ("*",))
  elif folder.is_dir():
    for name in _names(folder, part):
      yield from _matching(folder / name, rest)


def _names(folder: Path, pattern: str) -> list[str]:
  """The names in a folder that fit a pattern; hidden ones only if it begins with a dot."""
  hidden = pattern.startswith(".")
  names = fnmatch.filter(os.listdir(folder), pattern)
  return [name for name in names if hidden or not name.startswith(".")]


def _folders(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
  """The folder and all in it, but for hidden ones and links back to one of those above."""
  real = os.path.realpath(folder)
  if folder.is_dir() and real not in above:
    yield folder
    for name in sorted(_names(folder, "*")):
      yield from _folders(folder / name, (*above, real))
