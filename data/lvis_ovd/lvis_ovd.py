"""TFDS builder of OV-LVIS from the official files of LVIS v1 and the images of COCO 2017.

    python -m rkd_jax.data.lvis_ovd.lvis_ovd --data_dir=DIR --lvis=FOLDER --coco=FOLDER \\
      [--limit=N] [--dry_run]

The LVIS folder holds lvis_v1_train.json and lvis_v1_val.json, the COCO folder train2017/*.jpg
and val2017/*.jpg; images are found by the end of their 'coco_url'.

Split `train` keeps the boxes and polygons of the 866 frequent and common classes, `validation`
those of all 1203; the 337 rare ones are novel.  Both keep which classes LVIS looked for in vain
in an image and which it did not annotate exhaustively, for its federated evaluation.  The number
of training images of each class, 0 for the rare, is stored for the federated loss.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from rkd_jax.data import builder
from rkd_jax.data.coco_json import annotations
from rkd_jax.data.coco_json.objects import LEFT_OUT
from rkd_jax.data.coco_json.split import AnnotatedSplit
from rkd_jax.records import class_names as category_names

TRAIN_JSON = "lvis_v1_train.json"
VALIDATION_JSON = "lvis_v1_val.json"


def of_categories(
  categories: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> dict[str, list[str]]:
  """What a builder is told of LVIS' classes: the rare ones are novel, the others base.

  Raises ValueError: a category has no frequency.
  """
  for entry in categories:
    if entry.get("frequency") not in ("r", "c", "f"):
      raise ValueError(
        f"{path}: category {entry['id']} ({entry['name']}) has frequency "
        f"{entry.get('frequency')!r}, expected 'r', 'c' or 'f': use the official LVIS v1 file."
      )
  return {
    "base": [entry["name"] for entry in categories if entry["frequency"] != "r"],
    "novel": [entry["name"] for entry in categories if entry["frequency"] == "r"],
    "frequencies": [entry["frequency"] for entry in categories],
  }


def load_synsets(json_path: str | os.PathLike) -> list[Mapping[str, Any]]:
  """The categories of an LVIS JSON by ascending id, each with a 'synset' such as 'dog.n.01'.

  Raises ValueError: missing or malformed file, a category without synset.
  """
  entries = list(category_names.load_categories(json_path).values())
  for entry in entries:
    if not isinstance(entry.get("synset"), str):
      raise ValueError(
        f"{json_path}: category {entry['id']} ({entry['name']}) has synset "
        f"{entry.get('synset')!r}, expected a text like 'dog.n.01': use the official LVIS v1 file."
      )
  return entries


class LvisOvd(builder.RecordBuilder):
  """Open-vocabulary LVIS v1; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, lvis: str | os.PathLike, coco: str | os.PathLike, **kwargs: Any):
    """Reads the JSON; ValueError if it has a problem.  `builder.prepare` reads the images."""
    folder = Path(lvis)
    train, validation = (
      annotations.load_annotations(folder / name, coco, lvis=True, repair=True)
      for name in (TRAIN_JSON, VALIDATION_JSON)
    )
    classes = of_categories(train.categories, train.path)
    if validation.class_names != train.class_names:
      raise ValueError(f"{validation.path} has other categories than {train.path}.")
    counted = {
      TRAIN_JSON: {
        "images": (len(train.images), 100_170),
        "annotations": (_num_objects(train), 1_270_141),
        "rare classes": (len(classes["novel"]), 337),
        "common and frequent classes": (len(classes["base"]), 866),
      },
      VALIDATION_JSON: {
        "images": (len(validation.images), 19_809),
        "annotations": (_num_objects(validation), 244_707),
      },
    }
    super().__init__(
      splits={
        "train": AnnotatedSplit(train, classes["base"], train.images),
        "validation": AnnotatedSplit(validation, train.class_names, validation.images),
      },
      settings={name: builder.checksum(folder / name) for name in counted},
      totals=builder.compared(counted),
      **classes,
      **kwargs,
    )


def _num_objects(content: annotations.Annotations) -> int:
  left_out = content.repairs.get(LEFT_OUT, 0)
  return sum(len(image.classes) for image in content.images) + left_out


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--lvis", required=True, help="folder of lvis_v1_train.json and _val.json")
  parser.add_argument("--coco", required=True, help="folder of train2017 and val2017")
  builder.run(parser, LvisOvd)


if __name__ == "__main__":
  main()
