"""The teachers' results in the original's files, to our records (`inputs.teachers`) and back.

  python -m rkd_jax.convert.teachers --annotations=instances_train2017.json --split=train \\
    --regions=classagnostic_distilfeats --pseudo_boxes=class_specific --output=runs/teachers
  python -m rkd_jax.convert.teachers --to=pickles --annotations=instances_train2017.json \\
    --split=train --output=runs/teachers --regions=NEW_FOLDER --pseudo_boxes=NEW_FOLDER

The original keeps one pickle per image and teacher, named as the image's file:

  regions (class-agnostic)      [(box, CLIP embedding (1, D)), ...], best first, without scores
  pseudo boxes (per label)      {category id: ([box], [score]), ...}, lists empty below a threshold

Boxes are XYXY in pixels of the file on both sides; category ids become classes by their order in
the annotations.  They are read without torch and without running them, and written so that
pickle.load gives tensors where torch is installed.
"""

import argparse
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.coco_json import annotations, category_names
from rkd_jax.convert.restricted import read_objects
from rkd_jax.convert.torch_files import pickle_tensors
from rkd_jax.inputs.teachers import TeacherReader, TeacherWriter

# A key beside the category ids in some of the published files: a box for no class.
_SALIENT = "salient"


def read_regions(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The regions of one image; their scores are 0, since the original keeps the order alone.

  Raises:
    ValueError: the pickle is damaged or holds something else; the file is named.
    FileNotFoundError: no such file.
  """
  content = read_objects(path)
  if not isinstance(content, list):
    raise ValueError(f"{path}: expected a list of (box, embedding), found {_short(content)}.")
  boxes, embeddings = [], []
  for number, entry in enumerate(content):
    if not isinstance(entry, list) or len(entry) != 2:
      raise ValueError(f"{path}: region {number} is {_short(entry)}, expected (box, embedding).")
    boxes.append(_box(entry[0], f"{path}: region {number}"))
    embeddings.append(np.asarray(entry[1], np.float32).reshape(-1))
  if len({len(row) for row in embeddings}) > 1:
    raise ValueError(f"{path}: its embeddings differ in width; make the file again.")
  return {
    "regions/boxes": np.array(boxes, np.float32).reshape(-1, 4),
    "regions/scores": np.zeros(len(boxes), np.float32),
    "regions/clip_embeddings": np.array(embeddings, np.float32).reshape(len(boxes), -1)
    if boxes
    else np.zeros((0, 0), np.float32),
  }


def read_pseudo_boxes(
  path: str | os.PathLike, class_of: Mapping[int, int]
) -> dict[str, np.ndarray]:
  """The pseudo boxes of one image; labels without a box and the class-less "salient" box are
  left out.

  Args:
    path: the pickle.
    class_of: category id -> class.

  Raises:
    ValueError: the pickle is damaged, holds something else, or names an unknown category.
    FileNotFoundError: no such file.
  """
  content = read_objects(path)
  if not isinstance(content, dict):
    raise ValueError(f"{path}: expected a dict by category id, found {_short(content)}.")
  boxes, labels, scores = [], [], []
  for category, entry in content.items():
    if category == _SALIENT:
      continue
    where = f"{path}: category {category!r}"
    if category not in class_of:
      raise ValueError(f"{where} is not in the annotations; give those the boxes were made for.")
    if not isinstance(entry, list) or len(entry) != 2:
      raise ValueError(f"{where} has {_short(entry)}, expected (boxes, scores).")
    if len(entry[0]) != len(entry[1]):
      raise ValueError(f"{where} has {len(entry[0])} boxes and {len(entry[1])} scores.")
    for box, score in zip(*entry):
      boxes.append(_box(box, where))
      scores.append(float(score))
      labels.append(class_of[category])
  return {
    "pseudo_boxes/boxes": np.array(boxes, np.float32).reshape(-1, 4),
    "pseudo_boxes/labels": np.array(labels, np.int64),
    "pseudo_boxes/scores": np.array(scores, np.float32),
  }


def _box(box: Any, where: str) -> np.ndarray:
  box = np.asarray(box, np.float32)
  if box.shape != (4,) or not np.isfinite(box).all():
    raise ValueError(f"{where}: the box is {_short(box.tolist())}, expected four finite numbers.")
  return box


def _short(value: Any) -> str:
  return f"{value!r:.60}"


def write_regions(path: str | os.PathLike, record: Mapping[str, np.ndarray]) -> None:
  """The regions of a record, as the original's training reads them."""
  embeddings = np.asarray(record["regions/clip_embeddings"], np.float32)
  regions = [(_numbers(box), row[None]) for box, row in zip(record["regions/boxes"], embeddings)]
  _write(path, pickle_tensors(regions))


def write_pseudo_boxes(
  path: str | os.PathLike, record: Mapping[str, np.ndarray], category_ids: Sequence[int]
) -> None:
  """The pseudo boxes of a record; `category_ids` are those of the classes, in order."""
  content = {}
  rows = zip(*(record[f"pseudo_boxes/{key}"] for key in ("boxes", "labels", "scores")))
  for box, label, score in rows:
    boxes, scores = content.setdefault(int(category_ids[label]), ([], []))
    boxes.append(_numbers(box))
    scores.append(float(score))
  _write(path, pickle.dumps(content, protocol=2))


def _write(path: str | os.PathLike, content: bytes) -> None:
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def _numbers(box: np.ndarray) -> list[int | float]:
  """Whole coordinates as integers, which the original has."""
  return [int(x) if float(x).is_integer() else float(x) for x in box]


def to_records(
  annotation_file: str | os.PathLike,
  regions: str | os.PathLike,
  pseudo_boxes: str | os.PathLike | None,
  output: str | os.PathLike,
  split: str,
) -> int:
  """Writes the results of every image of the annotations; resumes an earlier run.

  Args:
    annotation_file: COCO JSON with 'images' and 'categories'.
    regions, pseudo_boxes: folders of pickles; without the latter no image has pseudo boxes.
    output, split: where `TeacherReader` finds the records.

  Returns:
    The number of images.

  Raises:
    ValueError: a pickle is missing or wrong; the first one is named.
  """
  filenames, class_of = _index(annotation_file)
  paths = {image_id: _pickle_path(regions, name) for image_id, name in filenames.items()}
  width = next((d for d in map(_embedding_width, paths.values()) if d), None)
  if width is None:
    raise ValueError(f"{regions}: no image of {annotation_file} has a region.")
  metadata = {"imported": {"regions": str(regions), "pseudo_boxes": str(pseudo_boxes or "")}}
  with TeacherWriter(output, split, width, metadata) as writer:
    for image_id, path in paths.items():
      if image_id in writer:
        continue
      record = read_regions(path)
      if not len(record["regions/boxes"]):
        record["regions/clip_embeddings"] = np.zeros((0, width), np.float32)
      if pseudo_boxes is None:
        record |= _no_pseudo_boxes()
      else:
        path = _pickle_path(pseudo_boxes, filenames[image_id])
        record |= read_pseudo_boxes(path, class_of)
      writer.write(image_id, record)
  return len(paths)


def to_pickles(
  annotation_file: str | os.PathLike,
  regions: str | os.PathLike,
  pseudo_boxes: str | os.PathLike | None,
  records: str | os.PathLike,
  split: str,
) -> int:
  """The way back: writes the records of a split into folders of pickles.

  Raises:
    ValueError: no such records, or none for an image of the annotations.
  """
  filenames, class_of = _index(annotation_file)
  reader = TeacherReader(records, split)
  for image_id, name in filenames.items():
    record = reader[image_id]
    write_regions(_new_path(regions, name), record)
    if pseudo_boxes is not None:
      write_pseudo_boxes(_new_path(pseudo_boxes, name), record, list(class_of))
  return len(filenames)


def _index(annotation_file: str | os.PathLike) -> tuple[dict[int, str], dict[int, int]]:
  """Image id -> file name, and category id -> class."""
  categories = category_names.load_categories(annotation_file)
  return annotations.load_filenames(annotation_file), {c: i for i, c in enumerate(categories)}


def _new_path(folder: str | os.PathLike, filename: str) -> Path:
  """ImageNet's files (n01440764_18.JPEG) lie in a folder per synset, others do not."""
  stem = Path(filename).name.partition(".")[0]
  inner = Path(stem.partition("_")[0]) if re.match(r"n\d{8}_", stem) else Path()
  return Path(folder) / inner / f"{stem}.pkl"


def _pickle_path(folder: str | os.PathLike, filename: str) -> Path:
  path = _new_path(folder, filename)
  if not path.exists():
    raise ValueError(f"There is no {path}, the pickle of {filename}. Check the folder.")
  return path


def _embedding_width(path: Path) -> int:
  return read_regions(path)["regions/clip_embeddings"].shape[1]


def _no_pseudo_boxes() -> dict[str, np.ndarray]:
  return {
    "pseudo_boxes/boxes": np.zeros((0, 4), np.float32),
    "pseudo_boxes/labels": np.zeros(0, np.int64),
    "pseudo_boxes/scores": np.zeros(0, np.float32),
  }


def main():
  """Command line of the module's docstring."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--to", choices=("records", "pickles"), default="records")
  parser.add_argument("--annotations", required=True, help="COCO JSON: images and categories")
  parser.add_argument("--regions", required=True, help="folder of the class-agnostic pickles")
  parser.add_argument("--pseudo_boxes", help="folder of the class-specific pickles")
  parser.add_argument("--output", required=True, help="folder of the records")
  parser.add_argument("--split", required=True, help="such as train")
  args = parser.parse_args()
  convert = to_records if args.to == "records" else to_pickles
  try:
    count = convert(args.annotations, args.regions, args.pseudo_boxes, args.output, args.split)
  except (ValueError, OSError) as error:
    parser.exit(1, f"{error}\n")
  print(f"{count} images")


if __name__ == "__main__":
  main()
