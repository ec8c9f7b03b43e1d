"""COCO JSON in the folders that people keep it in, and the images that belong to it."""

from collections.abc import Mapping
from pathlib import Path

from rkd_jax.data.coco_json.annotations import load_filenames
from rkd_jax.data.coco_json.coco_json import Files
from rkd_jax.data.own import places
from rkd_jax.files.json_lists import Document

NAME = "COCO JSON"
_LISTS = ("images", "annotations", "categories")


def find(source: Path) -> dict[str, Path]:
  """The JSON file of each split; none where there is no COCO JSON.

  A file is taken as it is.  In a folder, its subfolders and theirs, the name of a file or of its
  folder says which split it is; one that says none is the split to train on if it is the only one.
  Raises ValueError: several files are for one split.
  """
  if source.is_file():
    return {"train": source} if source.suffix.lower() == ".json" else {}
  found = [
    file for folder in places.folders(source, 2) for file in places.files(folder, (".json",))
  ]
  found = [file for file in found if _has_lists(file)]
  splits = {}
  for file in found:
    role = places.role(file.relative_to(source)) or ("train" if len(found) == 1 else None)
    splits.setdefault(role, []).append(file)
  unknown = splits.pop(None, [])
  if unknown and not splits:
    raise ValueError(
      f"{source} has several files in COCO format, and no name says which is to train on: "
      f"{places.listed(unknown)}. Give one as --source=FILE, another as --validation=FILE."
    )
  return {role: _one(role, files) for role, files in splits.items()}


def read(splits: Mapping[str, Path], roots: Mapping[str, Path], **_: object) -> dict[str, Files]:
  """The files of each split with the folder of its images.

  Raises ValueError: no folder near has any of a split's images.
  """
  return {role: Files(file, _images(file, role, roots[role])) for role, file in splits.items()}


def _has_lists(file: Path) -> bool:
  """Whether a JSON has the lists of COCO; of those that are damaged, the name says it."""
  try:
    document = Document(file)
  except ValueError:
    return places.role(file.name) is not None
  return all(map(document.has, _LISTS))


def _one(role: str, files: list[Path]) -> Path:
  """The only file, or of several the only one of instances."""
  named = [file for file in files if "instances" in file.name]
  if len(files) > 1 and len(named) != 1:
    raise ValueError(
      f"Several files in COCO format are for the split {role}: {places.listed(files)}. Give the "
      "one that is meant as --source=FILE, and that to evaluate on as --validation=FILE."
    )
  return files[0] if len(files) == 1 else named[0]


def _images(file: Path, role: str, source: Path) -> Path:
  """The folder that the names of images are relative to."""
  names = [name.replace("\\", "/") for name in load_filenames(file).values()]
  top = file.parent if source.is_file() else source
  if not names:
    return file.parent
  looked = [file.parent]
  for folder, depth in ((top, 3), (file.parent.parent, 2)):
    looked += [own for own in places.folders(folder, depth) if own not in looked]
    found = places.choose_folder(looked, names, lambda own, name: (own / name).is_file(), role)
    if found is not None:
      return found
  raise ValueError(
    f"{file}: none of its images, such as {names[0]!r}, was found. Looked in "
    f"{places.listed(looked)}. Move or link the folder of the images beside the JSON; names are "
    "relative to it."
  )
