"""Reads the files of the Open Images Challenge 2019 and spreads labels along its hierarchy.

The released boxes and labels are of the most special classes only.  As the challenge's evaluation
asks, a box also counts for all classes above its own, a class seen in an image means that those
above it are there, too, and a class not in it that none of those below it is.
"""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rkd_jax.files.json_checks import read_json, read_text
from rkd_jax.records.class_names import alike, clean_name


class AnnotatedImage(NamedTuple):
  """One image; boxes are XYXY as fractions of its width and height.

  `positive` classes are in the image, `negative` ones are not; of others nothing is known.
  """

  name: str
  boxes: Float[np.ndarray, "g 4"]
  classes: Int[np.ndarray, "g"]
  is_group: Bool[np.ndarray, "g"]
  positive: tuple[int, ...]
  negative: tuple[int, ...]


def load_classes(path: str | os.PathLike) -> dict[str, str]:
  """Label ('/m/061hd_') -> name, in the order of the class descriptions.

  Raises ValueError: missing or malformed, or a label or name occurs twice.
  """
  classes = {}
  for number, row in enumerate(csv.reader(read_text(path).splitlines()), start=1):
    row[1:] = map(clean_name, row[1:])
    if len(row) != 2 or row[0] in classes or not row[1] or row[1] in classes.values():
      raise ValueError(f"{path}, line {number}: {row}, expected a new label and its name.")
    classes[row[0]] = row[1]
  if pairs := alike(classes.values()):
    raise ValueError(f"{path}: the names {pairs[0]} look alike: make them differ.")
  if not classes:
    raise ValueError(f"{path} is empty: it should have a line for each class.")
  return classes


def load_ancestors(path: str | os.PathLike, labels: Sequence[str]) -> list[frozenset[int]]:
  """The classes above each class, from the tree of 'Subcategory'; 'Part' is another relation.

  Raises ValueError: missing or malformed.
  """
  number_of = {label: number for number, label in enumerate(labels)}
  above = [frozenset() for _ in labels]

  def walk(node, path_down: frozenset[int]):
    if not isinstance(node, Mapping) or not isinstance(node.get("LabelName"), str):
      raise ValueError(f"{path}: {str(node)[:80]} is no class with 'LabelName'.")
    # The root is no class.
    number = number_of.get(node["LabelName"])
    if number is not None:
      above[number] |= path_down
      path_down |= {number}
    below = node.get("Subcategory", [])
    if not isinstance(below, list):
      raise ValueError(f"{path}: 'Subcategory' of {node['LabelName']!r} is no list.")
    for child in below:
      walk(child, path_down)

  walk(read_json(path), frozenset())
  return [own - {number} for number, own in enumerate(above)]


def load_images(
  boxes_csv: str | os.PathLike,
  labels_csv: str | os.PathLike,
  labels: Sequence[str],
  ancestors: Sequence[frozenset[int]],
) -> tuple[list[AnnotatedImage], int]:
  """All images of both files by their names, and how many boxes without area were left out.

  Raises ValueError: a file is missing or malformed, or has a label that is no class.
  """
  number_of = {label: number for number, label in enumerate(labels)}
  descendants = [
    frozenset(below for below, own in enumerate(ancestors) if number in own)
    for number in range(len(labels))
  ]
  boxes, positive, negative = {}, {}, {}
  empty = 0
  columns = ("XMin", "YMin", "XMax", "YMax")
  for where, row in _rows(boxes_csv, ("ImageID", "LabelName", *columns, "IsGroupOf")):
    number = _class(row, number_of, where)
    box = [_fraction(row[column], where) for column in columns]
    own = boxes.setdefault(row["ImageID"], [])
    seen = {number, *ancestors[number]}
    positive.setdefault(row["ImageID"], set()).update(seen)
    if box[0] >= box[2] or box[1] >= box[3]:
      empty += 1
      continue
    own += [(box, found, row["IsGroupOf"] == "1") for found in (number, *sorted(seen - {number}))]
  for where, row in _rows(labels_csv, ("ImageID", "LabelName", "Confidence")):
    number = _class(row, number_of, where)
    there = _fraction(row["Confidence"], where) > 0.5
    spread, found = (ancestors, positive) if there else (descendants, negative)
    found.setdefault(row["ImageID"], set()).update({number, *spread[number]})
  images = []
  for name in sorted({*boxes, *positive, *negative}):
    own = list(zip(*boxes.get(name, ()))) or [(), (), ()]
    there = positive.get(name, set())
    images.append(
      AnnotatedImage(
        name,
        np.array(own[0], np.float64).reshape(-1, 4),
        np.array(own[1], np.int64),
        np.array(own[2], bool),
        tuple(sorted(there)),
        tuple(sorted(negative.get(name, set()) - there)),
      )
    )
  return images, empty


def _rows(path: str | os.PathLike, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
  """Rows of a CSV with a header, and where each is."""
  reader = csv.DictReader(read_text(path).splitlines())
  if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
    raise ValueError(f"{path} has no columns {missing}: its first line should name {columns}.")
  for number, row in enumerate(reader, start=2):
    where = f"{path}, line {number}"
    if any(row[name] is None for name in columns):
      raise ValueError(f"{where}: has too few values; the file may be cut off.")
    yield where, row


def _class(row: Mapping[str, str], number_of: Mapping[str, int], where: str) -> int:
  if row["LabelName"] not in number_of:
    raise ValueError(f"{where}: {row['LabelName']!r} is not among the {len(number_of)} classes.")
  return number_of[row["LabelName"]]


def _fraction(text: str, where: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = float("nan")
  if not 0 <= value <= 1:
    raise ValueError(f"{where}: {text!r} is not a number from 0 to 1.")
  return value
