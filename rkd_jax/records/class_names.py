"""Names of classes: from the categories of a COCO JSON, from a command line, in captions.

Names are compared as people read them: without spaces around them, and in one of the ways (NFC) in
which Unicode can write an accent; capitals are kept.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from rkd_jax.files import json_checks as checks
from rkd_jax.files import json_values
from rkd_jax.files.json_lists import Document, Problems

# Cyrillic and Greek letters that are drawn as Latin ones.
_DRAWN_ALIKE = str.maketrans(
  "асеорхуіјѕԁһӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧοАВЕКМНОРСТХ", "aceopxyijsdhlABEZHIKMNOPTYXoABEKMHOPCTX"
)


def clean_name(name: str) -> str:
  """A name in NFC, without spaces and invisible characters around it."""
  name = unicodedata.normalize("NFC", name)
  while name and (name[0].isspace() or unicodedata.category(name[0]) == "Cf"):
    name = name[1:]
  while name and (name[-1].isspace() or unicodedata.category(name[-1]) == "Cf"):
    name = name[:-1]
  return name


def look(name: str) -> str:
  """What is the same for names that look alike, or that a text encoder reads as one.

  Capitals, '_' for a space, several spaces, invisible characters, compatible forms such as full
  width, and letters of other scripts that are drawn alike make no difference.
  """
  name = unicodedata.normalize("NFKC", name)
  name = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
  name = re.sub(r"(?<=.)[\s_]+(?=.)", " ", name.translate(_DRAWN_ALIKE))
  return name.casefold().strip()


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
  """Pairs of names that look alike, each with the first of its kind."""
  first, pairs = {}, []
  for name in names:
    if (known := first.setdefault(look(name), name)) != name:
      pairs.append((known, name))
  return pairs


class Category(msgspec.Struct):
  """An entry of 'categories'; the last three are LVIS'."""

  id: json_values.Id
  name: str
  supercategory: Any = None
  frequency: Any = None
  synset: Any = None
  synonyms: Any = None


def read_categories(document: Document) -> dict[int, Category]:
  """Category id -> entry of 'categories', its name clean; equal copies, as of VIA, are left out."""
  path, problems, found = document.path, document.problems, {}
  for number, category in document.entries("categories", Category):
    where = f"{path}: categories[{number}]"
    name = clean_name(category.name)
    if not name or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
      problems.add("name", f"{where}: name is {category.name!r}, expected a text on one line.")
      continue
    document.notes["categories with spaces around the name"] += name != category.name
    category.name = name
    first = found.setdefault(category.id, category)
    if first is not category and first == category:
      document.notes["equal copies of categories left out"] += 1
    elif first is not category:
      problems.add(
        "category id",
        f"{where}: category id {category.id} occurs twice, for {first.name!r} and {name!r}: give "
        "every entry its own, or remove the copy.",
      )
  if not found and not problems:
    problems.add("categories", f"{path}: 'categories' is empty: list at least one class.")
  return found


def _root(categories: Mapping[int, Category]) -> Category | None:
  """The category that is the 'supercategory' of all others and has none, as Roboflow's is."""
  for root in categories.values():
    above = {str(own.supercategory).strip() for own in categories.values() if own is not root}
    own = str(root.supercategory or "").strip().casefold()
    if own in ("", "none") and above == {root.name}:
      return root
  return None


def choose_classes(
  document: Document,
  categories: Mapping[int, Category],
  used: Callable[[], Collection[int]],
  keep: Collection[str] = (),
) -> dict[int, dict[str, Any]]:
  """Category id -> entry, ascending, of the categories that are classes.

  A root of the others that no annotation has is none, unless `keep` has its name and no other
  category has.  `used` gives the category ids of the annotations.  Adds problems where two names
  are equal or look alike.
  """
  path, problems = document.path, document.problems
  classes = dict(sorted(categories.items()))
  root = _root(categories)
  others = {own.name for own in categories.values() if own is not root}
  kept = root is None or (root.name in keep and root.name not in others)
  if not kept and root.id not in used():
    del classes[root.id]
    line = f"category {root.id} ({root.name}) left out, the root of the others, without annotation"
    document.notes[line] += 1
  by_name = {}
  for category in classes.values():
    first = by_name.setdefault(category.name, category)
    if first is not category:
      problems.add(
        "category name",
        f"{path}: category name {category.name!r} occurs twice, for ids {first.id} and "
        f"{category.id}: give every entry its own, or remove the copy.",
      )
  for one, other in alike(by_name):
    problems.add(
      "category name",
      f"{path}: category names {one!a} (id {by_name[one].id}) and {other!a} (id "
      f"{by_name[other].id}) look alike: make them one category, or give them names that differ.",
    )
  return {key: msgspec.structs.asdict(category) for key, category in classes.items()}


class _Used(msgspec.Struct):
  category_id: json_values.Id


def load_categories(json_path: str | os.PathLike) -> dict[int, dict[str, Any]]:
  """Category id -> entry, ascending, of a COCO JSON or a bare list of categories (as LVIS has).

  Entries have the fields of `Category`; which are classes, see `choose_classes`.

  Raises:
    ValueError: missing or malformed file, no categories, one that occurs twice, or two that look
      alike.
  """
  document = Document(json_path)

  def used() -> set[int]:
    # Of a bare list nothing is known.
    if document.is_list or not document.has("annotations"):
      return {category.id for category in categories.values()}
    # Who only asks for names is not told of the annotations.
    problems, document.problems = document.problems, Problems(json_path)
    found = {entry.category_id for _, entry in document.entries("annotations", _Used)}
    document.problems = problems
    return found

  categories = read_categories(document)
  classes = choose_classes(document, categories, used)
  document.problems.check()
  return classes


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
  """Class names from a command line: 'a, b, c', or '@file' with one name per line; clean."""
  listed = text.startswith("@")
  names = checks.read_text(text[1:]).splitlines() if listed else text.split(",")
  return tuple(filter(None, map(clean_name, names)))


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
  """Checked, clean (base, novel) names; `base` None means every class that is not novel."""
  novel = tuple(map(clean_name, novel))
  if base is None:
    base = [name for name in class_names if name not in novel]
  base = tuple(map(clean_name, base))
  check_split(class_names, base, novel)
  if not base:
    raise ValueError("There is no base class: name at least one to train on.")
  return tuple(dict.fromkeys(base)), tuple(dict.fromkeys(novel))


def spoken(name: str) -> str:
  """A name as it stands in a caption, in lower case: 'bat_(animal)' is 'bat'."""
  words = clean_name(name).replace("_", " ").casefold()
  return " ".join(re.sub(r"\([^()]*\)", " ", words).split())


def named_in(captions: Sequence[str], class_names: Sequence[str]) -> list[str]:
  """Classes whose name, or its plural in -s or -es, stands in a caption as whole words.

  Names are taken as people say them (`spoken`); one that says nothing but a note stands as it is.
  """
  text = unicodedata.normalize("NFC", " ".join(" ".join(captions).casefold().split()))
  return [
    name
    for name in class_names
    if re.search(rf"(?<!\w){re.escape(spoken(name) or name.casefold())}(?:e?s)?(?!\w)", text)
  ]
