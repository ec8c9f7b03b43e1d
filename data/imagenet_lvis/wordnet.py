"""Reads the nouns of WordNet 3.0 from its own database files, as in the folder `dict` of a release.

A synset is a number, its offset in `data.noun`; ImageNet calls it 'n' and eight digits.  LVIS
names it after one of its lemmas and the number of the sense, 'dog.n.01'; `index.noun` lists the
synsets of each lemma by sense.  The formats are those of WordNet's manual page wndb(5WN).
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path


def load_senses(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
  """Lemma (lower case, '_' for spaces) -> its synsets by sense number, from `index.noun`.

  Raises:
    ValueError: missing, or another file.
  """
  senses = {}
  for number, fields in _lines(path, "index.noun"):
    try:
      lemma, part, count, pointers = fields[0], fields[1], int(fields[2]), int(fields[3])
      offsets = tuple(int(field) for field in fields[6 + pointers :])
    except (IndexError, ValueError):
      part, count, offsets = "", 0, ()
    if part != "n" or len(offsets) != count or not count:
      raise _other_file(path, "index.noun", number)
    senses[lemma] = offsets
  if not senses:
    raise _other_file(path, "index.noun", 1)
  return senses


def load_lemmas(path: str | os.PathLike) -> dict[int, tuple[str, ...]]:
  """Synset -> its lemmas as they are written ('_' for spaces), the usual one first: `data.noun`.

  Raises:
    ValueError: missing, or another file.
  """
  lemmas = {}
  for number, fields in _lines(path, "data.noun"):
    try:
      offset, part, count = int(fields[0]), fields[2], int(fields[3], 16)
      words = tuple(fields[4 : 4 + 2 * count : 2])
    except (IndexError, ValueError):
      part, count, words = "", 0, ()
    if part != "n" or len(words) != count or not count:
      raise _other_file(path, "data.noun", number)
    lemmas[offset] = words
  if not lemmas:
    raise _other_file(path, "data.noun", 1)
  return lemmas


def offset_of(synset: str, senses: Mapping[str, tuple[int, ...]]) -> int | None:
  """The synset that 'dog.n.01' names; None where it is none of the nouns of `load_senses`.

  Raises:
    ValueError: not a name of this form.
  """
  match = re.fullmatch(r"(.+)\.([a-z])\.(\d+)", synset)
  if match is None or int(match[3]) < 1:
    raise ValueError(f"synset {synset!r} is not of the form 'dog.n.01'.")
  offsets = senses.get(match[1].lower(), ()) if match[2] == "n" else ()
  sense = int(match[3])
  return offsets[sense - 1] if sense <= len(offsets) else None


def wnid(offset: int) -> str:
  """ImageNet's name of a synset."""
  return f"n{offset:08d}"


def _lines(path: str | os.PathLike, name: str) -> Iterator[tuple[int, list[str]]]:
  """Number and fields of each line behind the licence, whose lines begin with two spaces."""
  try:
    text = Path(path).read_text("utf-8")
  except OSError as error:
    raise ValueError(
      f"Cannot read {path}: {error.strerror}. It should be dict/{name} of WordNet 3.0."
    ) from error
  except UnicodeDecodeError:
    raise _other_file(path, name, 1) from None
  for number, line in enumerate(text.splitlines(), start=1):
    if line.strip() and not line.startswith("  "):
      yield number, line.split()


def _other_file(path: str | os.PathLike, name: str, number: int) -> ValueError:
  return ValueError(
    f"{path}, line {number}: not the format of dict/{name} of WordNet 3.0 (or the file is cut "
    "off): give that file, as it is in the release."
  )
