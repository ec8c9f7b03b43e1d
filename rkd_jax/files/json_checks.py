"""JSON: checks, each a ValueError that names file, record and remedy; where two trees differ."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def read_json(path: str | os.PathLike) -> Any:
  """The content of a JSON file; ValueError if it is missing or malformed (line and column)."""
  try:
    return json.loads(read_text(path))
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}. "
      "Correct it there; if it is the end of the file, the file may be cut off."
    ) from error


def read_text(path: str | os.PathLike) -> str:
  """The content of a text file in UTF-8; ValueError if it is missing or anything else."""
  try:
    # Spreadsheets put a mark at the beginning.
    return Path(path).read_text("utf-8-sig")
  except OSError as error:
    raise ValueError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not a text file in UTF-8: {error}. Convert it.") from error


def differences(old: Any, new: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
  """The old and the new value by dotted path, wherever two trees of JSON values differ.

  A value that is missing counts as None, and a tuple as a list.
  """
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    prefix = f"{name}." if name else ""
    found = (differences(old.get(k), new.get(k), f"{prefix}{k}") for k in sorted({**old, **new}))
    return {path: values for part in found for path, values in part.items()}
  old, new = (json.loads(json.dumps(value)) for value in (old, new))
  return {} if old == new else {name: (old, new)}


def required(entry: Any, keys: Sequence[str], where: str) -> list:
  """The values of `keys` in an object that must have them."""
  if missing := [key for key in keys if not isinstance(entry, Mapping) or key not in entry]:
    raise ValueError(
      f"{where} has no {', '.join(map(repr, missing))}: COCO format asks for {', '.join(keys)}."
    )
  return [entry[key] for key in keys]


def entries(
  content: Any, key: str, path: str | os.PathLike, keys: Sequence[str]
) -> Iterator[tuple[str, Any, list]]:
  """Of each entry in the list under `key`: where it stands, itself, its values of `keys`."""
  (value,) = required(content, (key,), f"{path}")
  if not isinstance(value, list):
    raise ValueError(f"{path}: {key!r} is a {type(value).__name__}, COCO format has a list.")
  for number, entry in enumerate(value):
    where = f"{path}: {key}[{number}]"
    yield where, entry, required(entry, keys, where)


def integer(value: Any, name: str, where: str, low: int = 0, high: int = 2**63 - 1) -> int:
  """`value`, which must be an integer in [low, high]."""
  if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
    raise ValueError(f"{where}: {name} is {value!r}, expected an integer in [{low}, {high}].")
  return value


def unseen(key: Any, seen: Collection, name: str, path: Path):
  """Refuses a key that is among those seen."""
  if key in seen:
    raise ValueError(
      f"{path}: {name} {key!r} occurs twice: give every entry its own, or remove the copy."
    )


def texts(value: Any, where: str) -> tuple[str, ...]:
  """A list of at least one text; ValueError for anything else."""
  if not isinstance(value, list) or not value or not all(isinstance(t, str) and t for t in value):
    raise ValueError(f"{where} is {value!r}, expected a list of at least one text.")
  return tuple(value)
