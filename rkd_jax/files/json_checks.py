"""JSON: checks, each a ValueError that names file, record and remedy; where two trees differ."""

import json
import os
from collections.abc import Mapping
from typing import Any

from rkd_jax.files.json_lists import read_bytes


def read_json(path: str | os.PathLike) -> Any:
  """The content of a JSON file, for small ones; of long lists, see `json_lists`.

  Raises ValueError: it is missing or malformed (line and column), or an object has a key twice.
  """

  def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
      keys = [key for key, _ in pairs]
      twice = next(key for key in keys if keys.count(key) > 1)
      raise ValueError(f"{path} has {twice!r} twice in one object: keep one, or join the two.")
    return content

  def refuse(name: str) -> None:
    raise ValueError(f"{path} has {name}, which is no JSON: correct or remove it.")

  text = read_text(path)
  try:
    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_int=_integer)
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}. "
      "Correct it there; if it is the end of the file, the file may be cut off."
    ) from error
  except RecursionError as error:
    raise ValueError(f"{path} has lists or objects nested too deeply: correct it.") from error


def _integer(text: str) -> int | float:
  # Python refuses to read integers of thousands of digits.
  return int(text) if len(text) < 400 else float(text)


def read_text(path: str | os.PathLike) -> str:
  """The content of a text file in UTF-8; ValueError if it is missing or anything else."""
  return read_bytes(path).decode()


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


def texts(value: Any, where: str) -> tuple[str, ...]:
  """A list of at least one text; ValueError for anything else."""
  if not isinstance(value, list) or not value or not all(isinstance(t, str) and t for t in value):
    raise ValueError(f"{where} is {value!r}, expected a list of at least one text.")
  return tuple(value)
