"""TFDS builder of the validation images of Objects365, for evaluation across data sets.

    python -m rkd_jax.data.objects365.objects365 --data_dir=DIR \\
      --annotations=zhiyuan_objv2_val.json --images=FOLDER \\
      [--name_fixes=FILE.csv] [--limit=N] [--dry_run]

`file_name` of the JSON is taken relative to FOLDER.  Split `validation` holds all images and the
boxes of all 365 classes, which are all novel: nothing here is trained on.

The official names have misspellings and names for several things at once ('Handbag/Satchel'),
which text embeddings feel.  They are kept as they are, unless --name_fixes has better ones: lines
`category id,official name,better name`, of any number of the categories.

    python -m rkd_jax.main --config=configs/lvis/rkd_ils.py --workdir=RUN --mode=eval \\
      --config.data.dir=DIR --config.data.name=objects365/plain \\
      --config.class_embeddings=F.npz --config.evaluation.protocol=coco

then evaluates a detector by text embeddings F of these classes.
"""

import csv
import dataclasses
import os
from typing import Any

import tensorflow_datasets as tfds

from rkd_jax.data import builder
from rkd_jax.data.coco_json.annotations import Annotations, load_annotations
from rkd_jax.data.coco_json.split import AnnotatedSplit
from rkd_jax.files import json_checks as checks
from rkd_jax.records import class_names as category_names


class Objects365(builder.RecordBuilder):
  """Objects365 v2, validation; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self,
    *,
    annotations: str | os.PathLike,
    images: str | os.PathLike,
    name_fixes: str | os.PathLike | None = None,
    **kwargs: Any,
  ):
    """Reads the JSON; ValueError if it has a problem.  `builder.prepare` reads the images."""
    content = load_annotations(annotations, images, repair=True)
    if name_fixes is not None:
      content = _renamed(content, name_fixes)
    names = content.class_names
    counted = {"images": (len(content.images), 80_000), "classes": (len(names), 365)}
    super().__init__(
      splits={"validation": AnnotatedSplit(content, names, content.images)},
      novel=names,
      settings={
        "annotations": builder.checksum(annotations),
        "name_fixes": None if name_fixes is None else builder.checksum(name_fixes),
      },
      totals=builder.compared({str(annotations): counted}),
      **kwargs,
    )


def _renamed(content: Annotations, path: str | os.PathLike) -> Annotations:
  """The annotations with the better names of a CSV, each of which must be of one category."""
  rows = csv.reader(checks.read_text(path).splitlines())
  names = {str(entry["id"]): name for entry, name in zip(content.categories, content.class_names)}
  for number, row in enumerate(rows, start=1):
    row[1:] = map(category_names.clean_name, row[1:])
    if len(row) != 3 or names.get(row[0]) != row[1] or not row[2]:
      raise ValueError(
        f"{path}, line {number}: {row}, expected 'category id,official name,better name' of a "
        f"category of {content.path}, each once."
      )
    names[row[0]] = row[2]
  if len(set(names.values())) < len(names):
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    raise ValueError(f"{path}: {twice} would name several categories: give each a name of its own.")
  if pairs := category_names.alike(names.values()):
    raise ValueError(f"{path}: {pairs[0]} look alike: give each a name of its own.")
  return dataclasses.replace(content, class_names=tuple(names.values()))


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--annotations", required=True, help="zhiyuan_objv2_val.json")
  parser.add_argument("--images", required=True, help="the folder of its file names")
  parser.add_argument("--name_fixes", help="CSV: category id,official name,better name")
  builder.run(parser, Objects365)


if __name__ == "__main__":
  main()
