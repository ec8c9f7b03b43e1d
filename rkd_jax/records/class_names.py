"""Names of classes: from the categories of a COCO JSON, from a command line, in captions."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rkd_jax.files import json_checks as checks


def names_by_id(content: Any, path: Path) -> dict[int, str]:
  """Category id -> class name, ascending, of a file's content."""
  names = {}
  for number, entry in enumerate(checks.entries(content, "categories", path)):
    where = f"{path}: categories[{number}]"
    category_id, name = checks.required(entry, ("id", "name"), where)
    if not isinstance(name, str) or not name:
      raise ValueError(f"{where}: name is {name!r}, expected a text.")
    checks.unseen(checks.integer(category_id, "id", where), names, "category id", path)
    checks.unseen(name, names.values(), "category name", path)
    names[category_id] = name
  if not names:
    raise ValueError(f"{path}: 'categories' is empty: list at least one class.")
  return dict(sorted(names.items()))


def load_class_names(json_path: str | os.PathLike) -> tuple[str, ...]:
  """Class names by ascending category id, of a COCO JSON or of a bare list of its categories.

  Such lists are the category-info files of LVIS.

  Raises:
    ValueError: missing or malformed file, no categories, or one that occurs twice.
  """
  return tuple(load_categories(json_path).values())


def load_categories(json_path: str | os.PathLike) -> dict[int, str]:
  """Category id -> class name, ascending; files and errors as for `load_class_names`."""
  path = Path(json_path)
  return names_by_id(_category_list(path), path)


def load_category_entries(json_path: str | os.PathLike) -> tuple[Mapping[str, Any], ...]:
  """The whole entries of 'categories' by ascending id; else as for `load_class_names`."""
  path = Path(json_path)
  content = _category_list(path)
  order = names_by_id(content, path)
  by_id = {entry["id"]: entry for entry in content["categories"]}
  return tuple(by_id[category_id] for category_id in order)


def load_synonyms(json_path: str | os.PathLike) -> tuple[tuple[str, ...], ...]:
  """The 'synonyms' of each category (LVIS has them), in the order of `load_class_names`.

  Raises:
    ValueError: as `load_class_names`, or a category has none.
  """
  path = Path(json_path)
  content = _category_list(path)
  order = list(names_by_id(content, path))
  synonyms = {}
  for entry in content["categories"]:
    names = entry.get("synonyms")
    where = f"{path}: category {entry['id']} ({entry['name']})"
    synonyms[entry["id"]] = checks.texts(names, f"{where}: 'synonyms'")
  return tuple(synonyms[category_id] for category_id in order)


def _category_list(path: Path) -> Any:
  content = checks.read_json(path)
  return {"categories": content} if isinstance(content, list) else content


def check_names(names: Sequence[str], class_names: Sequence[str], where: str):
  """Raises ValueError for the first name that is no class, with the nearest that are."""
  for name in names:
    if name not in class_names:
      hint = nearest(name, class_names) or f"one of {list(class_names)[:20]}"
      raise ValueError(f"{where} names {name!r}, which is not among the categories. Meant {hint}?")


def nearest(name: str, known: Iterable[str]) -> str:
  """The names, three at most, that an unknown one may have been meant for; '' if none is near."""
  folded = {own.casefold(): own for own in known}
  near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
  return ", ".join(repr(folded[match]) for match in near)


def parse_names(text: str) -> tuple[str, ...]:
  """Class names from a command line: 'a, b, c', or '@file' with one name per line."""
  if text.startswith("@"):
    names = checks.read_text(text[1:]).splitlines()
  else:
    names = text.split(",")
  return tuple(name.strip() for name in names if name.strip())


def check_chosen(names: Sequence[str], flag: str) -> None:
  """Raises ValueError where the classes that `flag` names are none, or one of them comes twice."""
  if not names:
    raise ValueError(f"{flag} is empty: name at least one class, as in {flag}='cat, dog'.")
  if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
    raise ValueError(f"{flag} has {', '.join(map(repr, twice))} more than once: keep one.")


def split_classes(
  class_names: Sequence[str], base: Sequence[str] | None, novel: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Checked (base, novel) names; `base` None means every class that is not novel."""
  check_names(novel, class_names, "The list of novel classes")
  if base is None:
    base = [name for name in class_names if name not in novel]
  check_names(base, class_names, "The list of base classes")
  if both := sorted(set(base) & set(novel)):
    raise ValueError(f"{both} are in the list of base classes and of novel ones: keep them in one.")
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
