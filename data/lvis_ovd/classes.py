"""The classes of open-vocabulary LVIS: the rare ones are novel, common and frequent ones base."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rkd_jax.records import class_names as category_names


class LvisClasses(NamedTuple):
  """All classes in their order, and LVIS' 'r', 'c' or 'f' of each."""

  names: tuple[str, ...]
  frequencies: tuple[str, ...]

  @property
  def base(self) -> list[str]:
    return [name for name, f in zip(self.names, self.frequencies) if f != "r"]

  @property
  def novel(self) -> list[str]:
    return [name for name, f in zip(self.names, self.frequencies) if f == "r"]


def of_categories(categories: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> LvisClasses:
  """The classes of 'categories' that are in order; `path` is for messages.

  Raises:
    ValueError: a category has no frequency.
  """
  for entry in categories:
    if entry.get("frequency") not in ("r", "c", "f"):
      raise ValueError(
        f"{path}: category {entry['id']} ({entry['name']}) has frequency "
        f"{entry.get('frequency')!r}, expected 'r', 'c' or 'f': use the official LVIS v1 file."
      )
  return LvisClasses(
    tuple(entry["name"] for entry in categories),
    tuple(entry["frequency"] for entry in categories),
  )


def load_synsets(json_path: str | os.PathLike) -> tuple[LvisClasses, tuple[str, ...]]:
  """The classes of an LVIS JSON, and WordNet's name of each, such as 'dog.n.01'.

  Raises:
    ValueError: missing or malformed file, a category without frequency or synset.
  """
  entries = list(category_names.load_categories(json_path).values())
  for entry in entries:
    if not isinstance(entry.get("synset"), str):
      raise ValueError(
        f"{json_path}: category {entry['id']} ({entry['name']}) has synset "
        f"{entry.get('synset')!r}, expected a text like 'dog.n.01': use the official LVIS v1 file."
      )
  return of_categories(entries, json_path), tuple(entry["synset"] for entry in entries)
