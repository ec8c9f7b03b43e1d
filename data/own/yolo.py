"""YOLO: a text file per image with a line per object, and a data.yaml, as Ultralytics has it.

A line is 'class x y width height', the centre and the size of a box, or 'class x1 y1 x2 y2 x3 y3
...', a polygon, whose box is the smallest around it; all in fractions of the image's width and
height.  The labels of '.../images/.../a.jpg' are in '.../labels/.../a.txt', or beside the image
where there is no such folder.  An image without such a file has no objects.

Of a data.yaml, 'train' and 'val' are a folder, a text file with the path of an image per line, or
a list of either, relative to 'path' (which is relative to the file); 'names' a list or a mapping
from numbers; with 'kpt_shape' numbers behind the box are keypoints, and left out.  Without a
data.yaml, folders are known by their names, and the classes' names are in a classes.txt.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from rkd_jax.data.coco_json.coco_json import Files
from rkd_jax.data.coco_json.made import Maker
from rkd_jax.data.own import places
from rkd_jax.files.json_checks import read_text
from rkd_jax.records.class_names import clean_name

NAME = "YOLO"
_SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels.txt")
# Boxes may stick out of the image a little; beyond this numbers are pixels.
_LARGEST = 2.0


class Part(NamedTuple):
  """The images of a split; `names` are those of the classes, `keypoints` that lines have some."""

  file: Path
  images: Sequence[Path]
  names: Sequence[str]
  keypoints: bool = False


def find(source: Path) -> dict[str, Part]:
  """The images of each split; none where there is no data.yaml and no folder of labels.

  Raises ValueError: the data.yaml is malformed or names what is not there, or no file says the
  names of the classes.
  """
  if source.is_file():
    is_yaml = source.suffix.lower() in (".yaml", ".yml")
    return _of_yaml(source, _read_yaml(source)) if is_yaml else {}
  found = {file: _read_yaml(file) for file in places.files(source, (".yaml", ".yml"))}
  found = {file: own for file, own in found.items() if "names" in own and "train" in own}
  if len(found) > 1:
    raise ValueError(
      f"{source} has several files that describe YOLO data: {places.listed(list(found))}. Give the "
      "one that is meant as --source=FILE."
    )
  for file, own in found.items():
    return _of_yaml(file, own)
  return _of_folders(source)


def read(
  splits: Mapping[str, Part], roots: Mapping[str, Path], skip_bad_images: bool, max_pixels: int
) -> dict[str, Files]:
  """The content of each split, classes by their numbers.

  What is wrong with a line is among the problems of its split's content.
  """
  content = {}
  for role, part in splits.items():
    root = roots[role] if roots[role].is_dir() else roots[role].parent
    maker = Maker(part.file, root, skip_bad_images, max_pixels)
    labels, seen = {}, set()
    for image in tqdm(part.images, f"reading {part.file}", unit=" images", disable=None):
      label = label_file(image)
      if image in seen:
        maker.notes["images that are listed more than once, taken once"] += 1
        continue
      if label.is_file() and labels.setdefault(label, image) != image:
        others = f"{labels[label].name} and {image.name}"
        maker.problems.add("image", f"{label} is for two images, {others}: keep one of them.")
        continue
      seen.add(image)
      if (size := maker.add_image(image, str(part.file))) is None:
        continue
      if label.is_file():
        _read_labels(label, size, part, maker)
      else:
        maker.notes["images without a file of labels, taken as without objects"] += 1
    if seen and not labels:
      first = part.images[0]
      raise ValueError(
        f"{part.file}: none of the {len(seen)} images has a file of labels; that of {first} would "
        f"be {label_file(first)}. Put the labels there."
      )
    content[role] = Files(maker.make(part.names), root)
  return content


def label_file(image: Path) -> Path:
  """Where the labels of an image are, whether they are there or not."""
  parts = list(image.parent.parts)
  for place in reversed(range(len(parts))):
    if parts[place] == "images":
      folder = Path(*parts[:place], "labels", *parts[place + 1 :])
      if Path(*parts[:place], "labels").is_dir():
        return folder / f"{image.stem}.txt"
      break
  return image.with_suffix(".txt")


def _read_labels(file: Path, size: tuple[int, int], part: Part, maker: Maker) -> None:
  """Adds the objects of a file to the image that was started last."""
  try:
    lines = read_text(file).splitlines()
  except ValueError as error:
    maker.problems.add("file of labels", str(error))
    return
  for count, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    where = f"{file}, line {count}"
    try:
      number, values = _read_line(line, part)
    except ValueError as error:
      shown = line.strip() if len(line) <= 80 else f"{line.strip()[:77]}..."
      maker.problems.add("line", f"{where}: {shown!r} {error}: correct or remove the line.")
      continue
    if len(values) == 4:
      x, y, w, h = (value * size[axis % 2] for axis, value in enumerate(values))
      maker.add_object(where, number, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
      continue
    polygon = [value * size[axis % 2] for axis, value in enumerate(values)]
    box = min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])
    maker.add_object(where, number, box, polygon)


def _read_line(line: str, part: Part) -> tuple[int, list[float]]:
  """Number of the class, and the fractions of a box (4) or of a polygon (6 or more).

  Raises ValueError: what is wrong, in words that follow the line.
  """
  try:
    number, *values = map(float, line.split())
  except ValueError:
    raise ValueError("has something that is no number") from None
  if part.keypoints:
    values = values[:4]
  if len(values) == 5:
    raise ValueError("has 6 numbers: predictions have a score at the end, annotations none")
  if len(values) < 4 or len(values) % 2:
    raise ValueError(
      f"has {len(values) + 1} numbers, expected a class and a box (5), or a class and the corners "
      "of a polygon (7, 9, ...)"
    )
  if not number.is_integer() or not 0 <= number < len(part.names):
    raise ValueError(
      f"has the class {line.split()[0]}, expected one from 0 to {len(part.names) - 1}, of the "
      f"{len(part.names)} names"
    )
  if not all(math.isfinite(value) and abs(value) <= _LARGEST for value in values):
    raise ValueError("has a number beyond 2, expected fractions of the image's width and height")
  return int(number), values


def _read_yaml(file: Path) -> dict[str, Any]:
  """The content; ValueError where it cannot be read, is no YAML, or is no mapping."""
  try:
    content = yaml.safe_load(read_text(file))
  except (yaml.YAMLError, RecursionError) as error:
    mark = getattr(error, "problem_mark", None)
    at = f" at line {mark.line + 1}" if mark else ""
    raise ValueError(f"{file} is not valid YAML{at}: correct it.") from error
  return content if isinstance(content, dict) else {}


def _of_yaml(file: Path, content: Mapping[str, Any]) -> dict[str, Part]:
  """The splits of a data.yaml."""
  names = _names(file, content)
  splits = {}
  for role, keys in _SPLITS.items():
    given = next((content[key] for key in keys if content.get(key)), None)
    if given is None or (role == "test" and not isinstance(given, str | list)):
      continue
    entries = given if isinstance(given, list) else [given]
    if not all(isinstance(entry, str) for entry in entries):
      raise ValueError(f"{file}: {keys[0]!r} is {given!r}, expected a path or a list of paths.")
    try:
      images = [image for entry in entries for image in _entry(file, content, entry)]
    except FileNotFoundError:
      if role == "test":  # often left out of what is handed on
        continue
      raise
    splits[role] = Part(file, images, names, "kpt_shape" in content)
  if "train" not in splits:
    raise ValueError(f"{file} has no 'train': name the folder of the images to train on.")
  return splits


def _names(file: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
  """The names of the classes by number."""
  names = content.get("names")
  if names is None:
    return _names_beside([file.parent])
  if isinstance(names, dict):
    if sorted(names, key=str) != sorted(range(len(names)), key=str):
      raise ValueError(
        f"{file}: 'names' has the numbers {list(names)[:20]}, expected 0 to {len(names) - 1}."
      )
    names = [names[number] for number in range(len(names))]
  if not isinstance(names, list) or not names:
    raise ValueError(f"{file}: 'names' is {names!r}, expected a list of the names of the classes.")
  count = content.get("nc", len(names))
  if count != len(names):
    raise ValueError(f"{file}: 'nc' is {count!r}, but there are {len(names)} 'names': correct one.")
  # YAML reads some bare words and numbers as other values.
  return tuple(clean_name(name if isinstance(name, str) else str(name)) for name in names)


def _entry(file: Path, content: Mapping[str, Any], entry: str) -> list[Path]:
  """The images that one path of a data.yaml stands for.

  Raises FileNotFoundError: there is nothing; it names the places.
  """
  top = content.get("path") or "."
  # Roboflow's paths begin with '../' though the folders are beside the file.
  tails = [entry, *([entry[3:]] if entry.startswith("../") else [])]
  looked = [base / tail for tail in tails for base in (file.parent / str(top), file.parent)]
  found = next((path for path in looked if path.exists()), None)
  if found is None:
    shown = places.listed(list(dict.fromkeys(looked)))
    raise FileNotFoundError(
      f"{file} names {entry!r}, which is not there. Looked for {shown}. Correct the path in it."
    )
  if found.is_dir():
    below = [image for folder in places.folders(found, 3) for image in places.images(folder)]
    if not below:
      raise FileNotFoundError(f"{file} names {entry!r}, but {found} has no images.")
    return below
  lines = [line.strip() for line in read_text(found).splitlines() if line.strip()]
  # Those of lists are relative to the folder of the list, or of the data set.
  bases = (found.parent, file.parent / str(top), file.parent)
  return [
    next((base / line for base in bases if (base / line).is_file()), found.parent / line)
    for line in lines
  ]


def _of_folders(source: Path) -> dict[str, Part]:
  """The splits of folders that have images and labels, by the names of the folders."""
  splits = {}
  for folder in places.folders(source, 3):
    images = places.images(folder)
    labels = [label_file(image) for image in images]
    if any(label.is_file() for label in labels):
      role = places.role(folder.relative_to(source)) or "train"
      splits.setdefault(role, []).extend(images)
  if not splits:
    return {}
  labels = (label_file(image).parent for images in splits.values() for image in images[:1])
  names = _names_beside(dict.fromkeys((source, *labels, *places.folders(source, 1))))
  return {role: Part(source, images, names) for role, images in splits.items()}


def _names_beside(folders: Iterable[Path]) -> tuple[str, ...]:
  """Names of classes from a file with one per line; ValueError where there is none."""
  folders = list(folders)
  for folder in folders:
    for name in _NAME_FILES:
      if (folder / name).is_file():
        lines = read_text(folder / name).splitlines()
        return tuple(clean_name(line) for line in lines if line.strip())
  raise ValueError(
    f"{folders[0]} has YOLO labels, and no file says the names of the classes. Write a data.yaml "
    "with 'train', 'val' and 'names', or a classes.txt with a name per line."
  )
