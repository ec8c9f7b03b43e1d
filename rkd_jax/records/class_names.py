"""Names of classes: from the categories of a COCO JSON, from a command line, in captions."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rkd_jax.files import json_checks as checks


def categories_by_id(content: Any, path: Path) -> dict[int, Mapping[str, Any]]:
  """Category id -> entry of 'categories', ascending, of a file's content."""
  found, names, keys = {}, set(), ("id", "name")
  for where, entry, (category_id, name) in checks.entries(content, "categories", path, keys):
    if not isinstance(name, str) or not name:
      raise ValueError(f"{where}: name is {name!r}, expected a text.")
    checks.unseen(checks.integer(category_id, "id", where), found, "category id", path)
    checks.unseen(name, names, "category name", path)
    names.add(name)
    found[category_id] = entry
  if not found:
    raise ValueError(f"{path}: 'categories' is empty: list at least one class.")
  return dict(sorted(found.items()))


def load_categories(json_path: str | os.PathLike) -> dict[int, Mapping[str, Any]]:
  """Category id -> entry, ascending, of a COCO JSON or a bare list of categories (as LVIS has).

  Raises:
    ValueError: missing or malformed file, no categories, or one that occurs twice.
  """
  path = Path(json_path)
  content = checks.read_json(path)
  return categories_by_id({"categories": content} if isinstance(content, list) else content, path)


def load_class_names(json_path: str | os.PathLike) -> tuple[str, ...]:
  """Class names by ascending category id; files and errors as for `load_categories`."""
  return tuple(entry["name"] for entry in load_categories(json_path).values())


def load_synonyms(json_path: str | os.PathLike) -> tuple[tuple[str, ...], ...]:
  """The 'synonyms' of each category, as `load_class_names`; ValueError also if one has none."""
  return tuple(
    checks.texts(
      entry.get("synonyms"), f"{json_path}: category {number} ({entry['name']}): 'synonyms'"
    )
    for number, entry in load_categories(json_path).items()
  )


def check_names(names: Sequence[str], class_names: Sequence[str], where: str):
  """Raises ValueError for the first name that is no class, with the nearest that are."""
  known = set(class_names)
  for name in names:
    if name not in known:
      hint = nearest(name, class_names) or f"one of {list(class_names)[:20]}"
      raise ValueError(f"{where} names {name!r}, which is not among the categories. Meant {hint}?")


def nearest(name: str, known: Iterable[str]) -> str:
  """The names, three at most, that an unknown one may have been meant for; '' if none is near."""
  folded = {own.casefold(): own for own in known}
  near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
  return ", ".join(repr(folded[match]) for match in near)


def parse_names(text: str) -> tuple[str, ...]:
  """Class names from a command line: 'a, b, c', or '@file' with one name per line."""
  listed = text.startswith("@")
  names = checks.read_text(text[1:]).splitlines() if listed else text.split(",")
  return tuple(name.strip() for name in names if name.strip())


def check_chosen(names: Sequence[str], flag: str) -> None:
  """Raises ValueError where the classes that `flag` names are none, or one of them comes twice."""
  if not names:
    raise ValueError(f"{flag} is empty: name at least one class, as in {flag}='cat, dog'.")
  if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
    raise ValueError(f"{flag} has {', '.join(map(repr, twice))} more than once: keep one.")


def check_split(class_names: Sequence[str], base: Sequence[str], novel: Sequence[str]) -> None:
  """Raises ValueError for a base or novel name that is no class, and for one that is both."""
  check_names(novel, class_names, "The list of novel classes")
  check_names(base, class_names, "The list of base classes")
  if both := sorted(set(base) & set(novel)):
    raise ValueError(f"{both} are in the list of base classes and of novel ones: keep them in one.")


def split_classes(
  class_names: Sequence[str], base: Sequence[str] | None, novel: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Checked (base, novel) names; `base` None means every class that is not novel."""
  if base is None:
    base = [name for name in class_names if name not in novel]
  check_split(class_names, base, novel)
  if not base:
    raise ValueError("There is no base class: name at least one to train on.")
  return tuple(dict.fromkeys(base)), tuple(dict.fromkeys(novel))


def named_in(captions: Sequence[str], class_names: Sequence[str]) -> list[str]:
  """Classes whose name, or its plural in -s or -es, stands in a caption as whole words."""
  text = " ".join(" ".join(captions).casefold().split())
  return [
    name
    for name in class_names
    if re.search(rf"(?<!\w){re.escape(name.casefold())}(?:e?s)?(?!\w)", text)
  ]
