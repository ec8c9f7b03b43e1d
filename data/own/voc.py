"""Pascal VOC: an XML file per image in Annotations, images in JPEGImages, lists in ImageSets/Main.

As VOC's own development kit defines it, pixels are numbered from 1 and both corners belong to the
object: (xmin, ymin, xmax, ymax) encloses xmin - 1 to xmax and ymin - 1 to ymax in coordinates
where the first pixel reaches from 0 to 1.  Some tools number from 0 instead.  Where a corner of
any object of the source is below 1, corners are taken as coordinates as they are, and that is
counted.

Objects that are 'difficult' are neither trained on nor counted in evaluations, as VOC's own
evaluation does; those that are 'truncated' are objects like others.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from tqdm import tqdm

from rkd_jax.data.coco_json.coco_json import Files
from rkd_jax.data.coco_json.made import Maker
from rkd_jax.data.own import places
from rkd_jax.files.json_lists import Problems
from rkd_jax.records.class_names import clean_name

NAME = "Pascal VOC"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"": False, "0": False, "no": False, "false": False, "1": True, "yes": True, "true": True}
_LISTS = {"train": ("train", "trainval"), "validation": ("val",), "test": ("test",)}


class Part(NamedTuple):
  """The XML files of a split, and the folder of its images."""

  files: Sequence[Path]
  images: Mapping[str, Sequence[Path]]  # by stem


class _Object(NamedTuple):
  where: str
  name: str
  corners: tuple[float, ...]
  is_difficult: bool
  is_truncated: bool


class _File(NamedTuple):
  filename: str
  size: tuple[int, int] | None
  objects: tuple[_Object, ...]


def find(source: Path) -> dict[str, Part]:
  """The XML files of each split; none where there are none of VOC.

  Lists in ImageSets/Main divide a folder; else the names of folders do (train, valid); files that
  neither divides are to train on.
  Raises ValueError: no folder near has images of the names of the files.
  """
  if source.is_file():
    return {}
  splits = {}
  for folder in places.folders(source, 2):
    files = places.files(folder, (".xml",))
    if not files or not _is_voc(files[0]):
      continue
    images = _images_of(folder, files, source)
    for role, own in _divide(folder, files, source).items():
      known = splits.setdefault(role, Part([], {}))
      splits[role] = Part([*known.files, *own], {**known.images, **images})
  return splits


def read(
  splits: Mapping[str, Part], roots: Mapping[str, Path], skip_bad_images: bool, max_pixels: int
) -> dict[str, Files]:
  """The content of each split, classes by name in alphabetical order.

  What is wrong with a file is among the problems of its split's content.
  """
  makers = {role: Maker(roots[role], roots[role], skip_bad_images, max_pixels) for role in splits}
  read = {}
  for role, part in splits.items():
    bar = tqdm(part.files, f"reading {roots[role]}", unit=" files", disable=None)
    read[role] = [(file, _read_file(file, makers[role].problems)) for file in bar]
  objects = [own for files in read.values() for _, found in files if found for own in found.objects]
  from_zero = any(value < 1 for own in objects for value in own.corners[:2])
  names = sorted({own.name for own in objects})
  numbers = {name: number for number, name in enumerate(names)}
  content = {}
  for role, files in read.items():
    maker = makers[role]
    for file, found in files:
      path = found and _image_of(file, found.filename, splits[role].images, maker.problems)
      if not path or maker.add_image(path, str(file), found.size) is None:
        continue
      maker.notes["images whose XML has no size, measured"] += found.size is None
      for own in found.objects:
        x1, y1, x2, y2 = own.corners
        box = own.corners if from_zero else (x1 - 1, y1 - 1, x2, y2)
        maker.add_object(own.where, numbers[own.name], box, crowd=own.is_difficult)
        maker.notes["difficult objects, neither trained on nor evaluated"] += own.is_difficult
        maker.notes["truncated objects, taken like others"] += own.is_truncated
        maker.notes["boxes taken as pixels numbered from 0, since some corner is 0"] += from_zero
    content[role] = Files(maker.make(names), roots[role])
  return content


def read_xml(path: Path) -> Element:
  """The root of an XML file; each element has its line as the attribute 'line'.

  Entities that a file declares are refused, which can grow without end or read other files.
  Raises ValueError: it cannot be read, is no XML, or declares an entity.
  """
  parser, tree = expat.ParserCreate(), TreeBuilder()

  def start(tag: str, attributes: dict[str, str]) -> None:
    tree.start(tag, {**attributes, "line": str(parser.CurrentLineNumber)})

  def refuse(*_: object) -> None:
    raise ValueError(
      f"{path}, line {parser.CurrentLineNumber}: the XML declares an entity, which no annotations "
      "need and which is not read: remove the declaration."
    )

  parser.StartElementHandler, parser.EndElementHandler = start, tree.end
  parser.CharacterDataHandler, parser.EntityDeclHandler = tree.data, refuse
  parser.buffer_text = True
  try:
    parser.Parse(path.read_bytes(), True)
    return tree.close()
  except OSError as error:
    raise ValueError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
  except expat.ExpatError as error:
    reason = expat.ErrorString(error.code)
    raise ValueError(
      f"{path} is not valid XML: line {error.lineno}: {reason}. Correct it there; if it is the end "
      "of the file, the file may be cut off."
    ) from error


def _is_voc(file: Path) -> bool:
  with file.open("rb") as opened:
    return re.search(rb"<annotation[\s>]", opened.read(4096)) is not None


def _images_of(folder: Path, files: Sequence[Path], source: Path) -> dict[str, list[Path]]:
  """Stem -> images, in the folder near the XML files that has most of theirs."""
  candidates = list(dict.fromkeys((folder, *places.folders(folder.parent, 1))))
  by_folder = {own: _by_stem(places.images(own)) for own in candidates}
  stems = [file.stem for file in files]
  best = places.choose_folder(candidates, stems, lambda own, stem: stem in by_folder[own])
  if best is None:
    raise ValueError(
      f"{folder}: no image belongs to its {len(files)} XML files, such as {files[0].name}. Looked "
      f"in {places.listed(candidates)}. Put the images into JPEGImages beside it."
    )
  return by_folder[best]


def _by_stem(images: Sequence[Path]) -> dict[str, list[Path]]:
  found = {}
  for path in images:
    found.setdefault(path.stem, []).append(path)
  return found


def _divide(folder: Path, files: list[Path], source: Path) -> dict[str, list[Path]]:
  """The files of each split, by VOC's lists or by the name of the folder."""
  lists = next((f for f in places.folders(folder.parent, 2) if _is_lists(f)), None)
  found = {}
  for role, names in _LISTS.items() if lists else ():
    # 'trainval' is all that is not for tests: it is to train on where there is no 'train'.
    list_file = next((lists / f"{n}.txt" for n in names if (lists / f"{n}.txt").is_file()), None)
    if list_file is not None:
      lines = list_file.read_text("utf-8", "replace").splitlines()
      wanted = {line.split()[0] for line in lines if line.strip()}
      found[role] = [file for file in files if file.stem in wanted]
  if found.get("train"):
    return {role: own for role, own in found.items() if own}
  return {places.role(folder.relative_to(source)) or "train": files}


def _is_lists(folder: Path) -> bool:
  return folder.name == "Main" and folder.parent.name == "ImageSets"


def _read_file(file: Path, problems: Problems) -> _File | None:
  """What an XML file says; what is wrong with it is added to the problems."""
  try:
    root = read_xml(file)
  except ValueError as error:
    problems.add("XML", str(error))
    return None
  if root.tag != "annotation":
    problems.add("XML", f"{file}: the root is <{root.tag}>, VOC has <annotation>: remove the file.")
    return None
  objects = []
  for element in root.findall("object"):
    try:
      objects.append(_object(element, file))
    except ValueError as error:
      problems.add("object", str(error))
  filename = (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
  return _File(filename, _size(root), tuple(objects))


def _object(element: Element, file: Path) -> _Object:
  """One <object>; ValueError for what is missing or no number."""
  name = clean_name(element.findtext("name") or "")
  where = f"{file}, line {element.get('line')} ({name or 'object without name'})"
  if not name:
    raise ValueError(f"{where}: <object> has no <name>: add it, or remove the object.")
  box = element.find("bndbox")
  if box is None:
    raise ValueError(f"{where}: <object> has no <bndbox>: add it, or remove the object.")

  def number(key: str) -> float:
    text = (box.findtext(key) or "").strip()
    try:
      value = float(text)
    except ValueError:
      value = math.nan
    if not math.isfinite(value):
      line = f"{file}, line {box.get('line')} ({name})"
      raise ValueError(f"{line}: <{key}> is {text!r}, expected a number of pixels: correct it.")
    return value

  def flag(key: str) -> bool:
    text = (element.findtext(key) or "").strip().lower()
    if text not in _FLAGS:
      raise ValueError(f"{where}: <{key}> is {text!r}, expected 0 or 1: correct it.")
    return _FLAGS[text]

  corners = tuple(map(number, _CORNERS))
  return _Object(where, name, corners, flag("difficult"), flag("truncated"))


def _size(root: Element) -> tuple[int, int] | None:
  """(width, height) where the XML says them; zeros, which some tools write, say nothing."""
  texts = [(root.findtext(f"size/{key}") or "").strip() for key in ("width", "height")]
  if not all(text.isdecimal() and int(text) for text in texts):
    return None
  return int(texts[0]), int(texts[1])


def _image_of(
  file: Path, filename: str, images: Mapping[str, Sequence[Path]], problems: Problems
) -> Path | None:
  """The image of an XML file: that of its own name, else that of its <filename>."""
  found = images.get(file.stem) or [
    path for path in images.get(Path(filename).stem, ()) if path.name == filename
  ]
  exact = [path for path in found if path.name == filename]
  if len(found) == 1 or len(exact) == 1:
    return (exact or found)[0]
  asked = f"{file}: <filename> is {filename!r}, and"
  if found:
    names = ", ".join(path.name for path in found)
    problems.add("image", f"{asked} {names} all have the name of the XML: keep one of them.")
  else:
    problems.add(
      "image", f"{asked} no image has that name or the name of the XML: add it, or remove the XML."
    )
  return None
