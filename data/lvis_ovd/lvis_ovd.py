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
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from rkd_jax.data import builder
from rkd_jax.data.coco_json import annotations
from rkd_jax.data.coco_json.split import AnnotatedSplit
from rkd_jax.data.lvis_ovd.classes import of_categories

TRAIN_JSON = "lvis_v1_train.json"
VALIDATION_JSON = "lvis_v1_val.json"


class LvisOvd(builder.RecordBuilder):
  """Open-vocabulary LVIS v1; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self,
    *,
    lvis: str | os.PathLike,
    coco: str | os.PathLike,
    **kwargs: Any,
  ):
    """Reads and checks the JSON files; images are read by `download_and_prepare`.

    Args:
      lvis: the folder of the annotations.
      coco: the folder of the images.
      **kwargs: what every builder takes, see `data.builder.RecordBuilder`.

    Raises:
      ValueError: a problem with the files.
    """
    folder = Path(lvis)
    train, validation = (
      annotations.load_annotations(folder / name, coco, lvis=True, repair=True)
      for name in (TRAIN_JSON, VALIDATION_JSON)
    )
    classes = of_categories(train.categories, train.path)
    if validation.class_names != train.class_names:
      raise ValueError(f"{validation.path} has other categories than {train.path}.")
    splits = {
      "train": AnnotatedSplit(train, classes.base, train.images, federated=True),
      "validation": AnnotatedSplit(
        validation, train.class_names, validation.images, federated=True
      ),
    }
    counted = {
      TRAIN_JSON: {
        "images": (len(train.images), 100_170),
        "annotations": (_num_objects(train), 1_270_141),
        "rare classes": (len(classes.novel), 337),
        "common and frequent classes": (len(classes.base), 866),
      },
      VALIDATION_JSON: {
        "images": (len(validation.images), 19_809),
        "annotations": (_num_objects(validation), 244_707),
      },
    }
    settings = {name: builder.checksum(folder / name) for name in (TRAIN_JSON, VALIDATION_JSON)}
    super().__init__(
      splits=splits,
      base=classes.base,
      novel=classes.novel,
      settings=settings,
      frequencies=classes.frequencies,
      totals=builder.compared(counted),
      **kwargs,
    )


def _num_objects(content: annotations.Annotations) -> int:
  left_out = content.repairs.get(annotations.LEFT_OUT, 0)
  return sum(len(image.classes) for image in content.images) + left_out


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--lvis", required=True, help="folder of lvis_v1_train.json and _val.json")
  parser.add_argument("--coco", required=True, help="folder of train2017 and val2017")
  builder.run(parser, LvisOvd)


if __name__ == "__main__":
  main()
