"""Reads the nouns of WordNet 3.0 from its own database files, as in the folder `dict` of a release.

A synset is a number, its offset in `data.noun`; ImageNet calls it 'n' and eight digits.  LVIS
names it after one of its lemmas and the number of the sense, 'dog.n.01'; `index.noun` lists the
synsets of each lemma by sense.  The formats are those of WordNet's manual page wndb(5WN).
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path


def load_senses(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
  """Lemma (lower case, '_' for spaces) -> its synsets by sense number, from `index.noun`."""

  def read(fields: list[str]) -> tuple:
    offsets = fields[6 + int(fields[3]) :]
    return fields[0], fields[1], int(fields[2]), tuple(map(int, offsets))

  return _read(path, "index.noun", read)


def load_lemmas(path: str | os.PathLike) -> dict[int, tuple[str, ...]]:
  """Synset -> its lemmas as written ('_' for spaces), the usual one first, from `data.noun`."""

  def read(fields: list[str]) -> tuple:
    count = int(fields[3], 16)
    return int(fields[0]), fields[2], count, tuple(fields[4 : 4 + 2 * count : 2])

  return _read(path, "data.noun", read)


def offset_of(
  synset: str, senses: Mapping[str, tuple[int, ...]], path: str | os.PathLike
) -> int | None:
  """The synset that 'dog.n.01' names; None where it is none of the nouns of `load_senses`.

  Raises ValueError, which names the file `path`: not a name of this form.
  """
  match = re.fullmatch(r"(.+)\.([a-z])\.(\d+)", synset)
  if match is None or (sense := int(match[3])) < 1:
    raise ValueError(f"{path}: synset {synset!r} is not of the form 'dog.n.01'.")
  offsets = senses.get(match[1].lower(), ()) if match[2] == "n" else ()
  return offsets[sense - 1] if sense <= len(offsets) else None


def wnid(offset: int) -> str:
  """ImageNet's name of a synset."""
  return f"n{offset:08d}"


def _read(path: str | os.PathLike, name: str, read: Callable[[list[str]], tuple]) -> dict:
  """Key -> values, from the lines behind the licence, whose lines begin with two spaces.

  `read` makes of a line's fields its key, part of speech, number of values, and values.
  Raises ValueError: missing, or another file.
  """
  try:
    text = Path(path).read_text("utf-8")
  except OSError as error:
    raise ValueError(
      f"Cannot read {path}: {error.strerror}. It should be dict/{name} of WordNet 3.0."
    ) from error
  except UnicodeDecodeError:
    raise _other_file(path, name, 1) from None
  found = {}
  for number, line in enumerate(text.splitlines(), start=1):
    if not line.strip() or line.startswith("  "):
      continue
    try:
      key, part, count, values = read(line.split())
    except (IndexError, ValueError):
      raise _other_file(path, name, number) from None
    if part != "n" or len(values) != count or not count:
      raise _other_file(path, name, number)
    found[key] = values
  if not found:
    raise _other_file(path, name, 1)
  return found


def _other_file(path: str | os.PathLike, name: str, number: int) -> ValueError:
  return ValueError(
    f"{path}, line {number}: not the format of dict/{name} of WordNet 3.0 (or the file is cut "
    "off): give that file, as it is in the release."
  )
