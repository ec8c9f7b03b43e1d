"""The teachers' results in the original's files, to our records (`records.results`) and back.

  python -m rkd_jax.data.published_teachers --annotations=instances_train2017.json --split=train \\
    --regions=classagnostic_distilfeats --pseudo_boxes=class_specific --output=runs/teachers
  python -m rkd_jax.data.published_teachers --imagenet --split=train \\
    --annotations=imagenet_lvis_image_info.json --regions=imagenet_distil_feats \\
    --pseudo_boxes=imagenet_lvis_image_info_pis.json --output=runs/imagenet_teachers
  python -m rkd_jax.data.published_teachers --to=pickles --annotations=instances_train2017.json \\
    --split=train --output=runs/teachers --regions=NEW_FOLDER --pseudo_boxes=NEW_FOLDER

The original keeps one pickle per image and teacher, named as the image's file:

  regions (class-agnostic)      [(box, CLIP embedding (1, D)), ...], best first, without scores
  pseudo boxes (per label)      {category id: ([box], [score]), ...}, lists empty below a threshold

The pseudo boxes of ImageNet-LVIS are published in one JSON of COCO's form, without scores and with
XYXY for 'bbox'; --pseudo_boxes takes (and with --to=pickles writes) such a file, too.  The labels
of OV-COCO are those that captions_train2017_tags_allcaps_pis.json has for an image
('pos_category_ids'): --image_labels=FILE leaves out the pseudo boxes of all others.

Boxes are XYXY in pixels of the file on both sides; category ids become classes by their order in
the annotations.  Image ids are those of the annotations, or with --imagenet those of
data/imagenet_lvis, which come from the file names.  Pickles are read without torch and without
running them, and written so that pickle.load gives tensors where torch is installed.
"""

import argparse
import json
import os
import pickle
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from rkd_jax.data.coco_json import annotations
from rkd_jax.data.imagenet_lvis import synsets
from rkd_jax.files import json_checks as checks
from rkd_jax.files import json_values, storage
from rkd_jax.files.json_lists import Document
from rkd_jax.files.terminal import print_any_name
from rkd_jax.files.torch_writer import pickle_tensors
from rkd_jax.files.untrusted.reading import quoted, shown
from rkd_jax.files.untrusted.torch_reader import read_objects
from rkd_jax.records import class_names as category_names
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter

# A pseudo box: box, class and score.
_Row = tuple[np.ndarray, int, float]


class _PseudoBox(msgspec.Struct):
  image_id: json_values.Id
  category_id: json_values.Id
  bbox: Any


class _LabelledImage(msgspec.Struct):
  id: json_values.Id
  pos_category_ids: json_values.Ids


def read_regions(path: str | os.PathLike, width: int = 0) -> dict[str, np.ndarray]:
  """The regions of one image; their scores are 0, since the original keeps the order alone.

  `width` is that of the embeddings, for an image without regions.

  Raises:
    ValueError, FileNotFoundError: the pickle is damaged, holds something else or is missing.
  """
  content = read_objects(path)
  if not isinstance(content, list):
    raise ValueError(f"{path}: expected a list of (box, embedding), found {shown(content)}.")
  boxes, embeddings = [], []
  for number, entry in enumerate(content):
    if not isinstance(entry, list) or len(entry) != 2:
      raise ValueError(f"{path}: region {number} is {shown(entry)}, expected (box, embedding).")
    boxes.append(_box(entry[0], f"{path}: region {number}"))
    embeddings.append(_embedding(entry[1], f"{path}: region {number}"))
  widths = {len(row) for row in embeddings} or {width}
  if len(widths) > 1:
    raise ValueError(f"{path}: its embeddings differ in width; make the file again.")
  return {
    "regions/boxes": np.array(boxes, np.float32).reshape(-1, 4),
    "regions/scores": np.zeros(len(boxes), np.float32),
    "regions/clip_embeddings": np.array(embeddings, np.float32).reshape(len(boxes), *widths),
  }


def read_pseudo_boxes(path: str | os.PathLike, class_of: Mapping[int, int]) -> list[_Row]:
  """The pseudo boxes of one image, without the class-less "salient" box.

  `class_of` gives the class of a category id.

  Raises:
    ValueError, FileNotFoundError: as `read_regions`, or a category is unknown.
  """
  content = read_objects(path)
  if not isinstance(content, dict):
    raise ValueError(f"{path}: expected a dict by category id, found {shown(content)}.")
  rows = []
  for category, entry in content.items():
    # In some of the published files: a box for no class.
    if category == "salient":
      continue
    where = f"{path}: category {quoted(category)}"
    if category not in class_of:
      raise ValueError(f"{where} is not in the annotations; give those the boxes were made for.")
    if not isinstance(entry, list) or len(entry) != 2:
      raise ValueError(f"{where} has {shown(entry)}, expected (boxes, scores).")
    if not all(isinstance(part, list) or np.shape(part) for part in entry):
      raise ValueError(f"{where} has {shown(entry)}, expected (boxes, scores).")
    if len(entry[0]) != len(entry[1]):
      raise ValueError(f"{where} has {len(entry[0])} boxes and {len(entry[1])} scores.")
    rows += [
      (_box(box, where), class_of[category], _score(score, where)) for box, score in zip(*entry)
    ]
  return rows


def read_pseudo_box_json(
  path: str | os.PathLike, image_ids: Container[int], class_of: Mapping[int, int]
) -> dict[int, list[_Row]]:
  """Image id -> pseudo boxes from one JSON for all images; it has no scores, so they are 1.

  Raises:
    ValueError: missing or malformed, an image not in `image_ids`, an unknown category, or a box
      that is none.
  """
  rows, document = {}, Document(path)
  for number, entry in document.entries("annotations", _PseudoBox):
    where = f"{path}: annotations[{number}]"
    image_id, category = entry.image_id, entry.category_id
    for name, value, known in (("image", image_id, image_ids), ("category", category, class_of)):
      if value not in known:
        raise ValueError(
          f"{where}: {name} {value!r} is not in --annotations; give those of {path}."
        )
    rows.setdefault(image_id, []).append((_box(entry.bbox, where), class_of[category], 1.0))
  document.problems.check()
  return rows


def read_image_labels(
  path: str | os.PathLike, class_of: Mapping[int, int]
) -> dict[int, frozenset[int]]:
  """Image id -> classes, from the 'pos_category_ids' of a JSON's images.

  Raises:
    ValueError: missing or malformed, or an unknown category.
  """
  labels, document = {}, Document(path)
  for number, entry in document.entries("images", _LabelledImage):
    if unknown := sorted(set(entry.pos_category_ids) - class_of.keys()):
      raise ValueError(f"{path}: images[{number}]: categories {unknown} are not in --annotations.")
    labels[entry.id] = frozenset(class_of[category] for category in entry.pos_category_ids)
  document.problems.check()
  return labels


def columns(rows: Sequence[_Row]) -> dict[str, np.ndarray]:
  """Pseudo boxes as records have them."""
  boxes, labels, scores = zip(*rows) if rows else ((), (), ())
  return {
    "pseudo_boxes/boxes": np.array(boxes, np.float32).reshape(-1, 4),
    "pseudo_boxes/labels": np.array(labels, np.int64),
    "pseudo_boxes/scores": np.array(scores, np.float32),
  }


def _box(box: Any, where: str) -> np.ndarray:
  try:
    with np.errstate(over="ignore"):
      numbers = np.asarray(box, np.float32)
  except (TypeError, ValueError, OverflowError):
    numbers = None
  if numbers is None or numbers.shape != (4,) or not np.isfinite(numbers).all():
    found = box if numbers is None else numbers.tolist()
    raise ValueError(f"{where}: the box is {quoted(found)}, expected four finite numbers.")
  return numbers


def write_regions(path: str | os.PathLike, record: Mapping[str, np.ndarray]) -> None:
  """The regions of a record, as the original's training reads them."""
  embeddings = np.asarray(record["regions/clip_embeddings"], np.float32)
  regions = [(_numbers(box), row[None]) for box, row in zip(record["regions/boxes"], embeddings)]
  storage.write(path, pickle_tensors(regions))


def write_pseudo_boxes(
  path: str | os.PathLike, record: Mapping[str, np.ndarray], category_ids: Sequence[int]
) -> None:
  """The pseudo boxes of a record; `category_ids` are those of the classes, in order."""
  content = {}
  for category, box, score in _pseudo_boxes(record, category_ids):
    boxes, scores = content.setdefault(category, ([], []))
    boxes.append(box)
    scores.append(score)
  storage.write(path, pickle.dumps(content, protocol=2))


def _pseudo_boxes(
  record: Mapping[str, np.ndarray], category_ids: Sequence[int]
) -> Iterator[tuple[int, list[int | float], float]]:
  """Category id, box and score of each."""
  rows = zip(*(record[f"pseudo_boxes/{key}"] for key in ("boxes", "labels", "scores")))
  for box, label, score in rows:
    yield int(category_ids[label]), _numbers(box), float(score)


def _numbers(box: np.ndarray) -> list[int | float]:
  """Whole coordinates as integers, which the original has."""
  return [int(x) if float(x).is_integer() else float(x) for x in box]


def _embedding(value: Any, where: str) -> np.ndarray:
  try:
    with np.errstate(over="ignore"):
      numbers = np.asarray(value, np.float32).reshape(-1)
  except (TypeError, ValueError, OverflowError):
    numbers = np.zeros(0, np.float32)
  if not numbers.size or not np.isfinite(numbers).all():
    raise ValueError(f"{where}: its embedding is {shown(value)}, expected finite numbers.")
  return numbers


def _score(value: Any, where: str) -> float:
  try:
    score = float(value)
  except (TypeError, ValueError, OverflowError):
    score = np.nan
  if not np.isfinite(score):
    raise ValueError(f"{where}: the score is {shown(value)}, expected a finite number.")
  return score


def to_records(
  annotation_file: str | os.PathLike,
  regions: str | os.PathLike,
  pseudo_boxes: str | os.PathLike | None,
  output: str | os.PathLike,
  split: str,
  image_labels: str | os.PathLike | None = None,
  imagenet: bool = False,
) -> int:
  """Writes the results of every image of the annotations; resumes an earlier run.

  The arguments are the flags of the command; without `pseudo_boxes` no image has any.

  Returns:
    The number of images.

  Raises:
    ValueError: a file is missing or wrong; the first one is named.
  """
  categories = category_names.load_categories(annotation_file)
  names = tuple(entry["name"] for entry in categories.values())
  class_of = {category: number for number, category in enumerate(categories)}
  filenames = annotations.load_filenames(annotation_file)
  paths = {image_id: _pickle_path(regions, name) for image_id, name in filenames.items()}
  widths = (read_regions(path)["regions/clip_embeddings"].shape[1] for path in paths.values())
  width = next(filter(None, widths), None)
  if width is None:
    raise ValueError(f"{regions}: no image of {annotation_file} has a region.")
  pseudo_boxes_of = _pseudo_box_reader(pseudo_boxes, filenames, class_of)
  labels = None if image_labels is None else read_image_labels(image_labels, class_of)
  sources = {"regions": regions, "pseudo_boxes": pseudo_boxes, "image_labels": image_labels}
  metadata = {"imported": {name: str(path or "") for name, path in sources.items()}}
  with TeacherWriter(output, split, width, metadata, class_names=names) as writer:
    for image_id, path in tqdm(paths.items(), unit=" images"):
      record_id = synsets.image_id(filenames[image_id]) if imagenet else image_id
      if record_id not in writer:
        rows = pseudo_boxes_of(image_id)
        if labels is not None:
          rows = [row for row in rows if row[1] in labels.get(image_id, ())]
        writer.write(record_id, read_regions(path, width) | columns(rows))
  return len(paths)


def _pseudo_box_reader(
  path: str | os.PathLike | None, filenames: Mapping[int, str], class_of: Mapping[int, int]
) -> Callable[[int], list[_Row]]:
  """What gives the pseudo boxes of an image id, from a folder of pickles, a JSON or nothing."""
  if path is not None and not _is_json(path):
    return lambda image_id: read_pseudo_boxes(_pickle_path(path, filenames[image_id]), class_of)
  rows = {} if path is None else read_pseudo_box_json(path, filenames, class_of)
  return lambda image_id: rows.get(image_id, [])


def to_pickles(
  annotation_file: str | os.PathLike,
  regions: str | os.PathLike,
  pseudo_boxes: str | os.PathLike | None,
  records: str | os.PathLike,
  split: str,
  imagenet: bool = False,
) -> int:
  """The way back: writes the records of a split into folders of pickles; returns their number.

  Where the path of the pseudo boxes ends in .json, they go to one JSON for the images with any.

  Raises:
    ValueError: no such records, or none for an image of the annotations.
  """
  category_ids = list(category_names.load_categories(annotation_file))
  filenames = annotations.load_filenames(annotation_file)
  reader = TeacherReader(records, split)
  as_json, entries = _is_json(pseudo_boxes), []
  for image_id, name in tqdm(filenames.items(), unit=" images"):
    record = reader[synsets.image_id(name) if imagenet else image_id]
    write_regions(_new_path(regions, name), record)
    if as_json:
      for category, box, _ in _pseudo_boxes(record, category_ids):
        entry = {"id": len(entries) + 1, "image_id": image_id, "category_id": category}
        area = (box[2] - box[0]) * (box[3] - box[1])
        entries.append({**entry, "bbox": box, "area": area})
    elif pseudo_boxes is not None:
      write_pseudo_boxes(_new_path(pseudo_boxes, name), record, category_ids)
  if as_json:
    content = checks.read_json(annotation_file)
    with_boxes = {entry["image_id"] for entry in entries}
    images = [image for image in content["images"] if image["id"] in with_boxes]
    content = {"images": images, "categories": content["categories"], "annotations": entries}
    storage.write(pseudo_boxes, json.dumps(content))
  return len(filenames)


def _is_json(path: str | os.PathLike | None) -> bool:
  return path is not None and Path(path).suffix == ".json"


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


def main():
  """Command line of the module's docstring."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--to", choices=("records", "pickles"), default="records")
  parser.add_argument("--annotations", required=True, help="COCO JSON: images and categories")
  parser.add_argument("--regions", required=True, help="folder of the class-agnostic pickles")
  parser.add_argument("--pseudo_boxes", help="folder of the class-specific pickles, or their JSON")
  parser.add_argument("--image_labels", help="JSON with the labels whose pseudo boxes are kept")
  parser.add_argument("--imagenet", action="store_true", help="image ids of data/imagenet_lvis")
  parser.add_argument("--output", required=True, help="folder of the records")
  parser.add_argument("--split", required=True, help="such as train")
  args = parser.parse_args()
  print_any_name()
  paths = (args.annotations, args.regions, args.pseudo_boxes, args.output, args.split)
  try:
    if args.to == "records":
      count = to_records(*paths, args.image_labels, args.imagenet)
    elif args.image_labels is not None:
      raise ValueError("--image_labels chooses what is imported; leave it out with --to=pickles.")
    else:
      count = to_pickles(*paths, args.imagenet)
  except (ValueError, OSError) as error:
    parser.exit(1, f"{error}\n")
  print(f"{count} images")


if __name__ == "__main__":
  main()
