"""TFDS builder of OV-COCO from the official files of COCO 2017.

    python -m rkd_jax.data.coco_ovd.coco_ovd --data_dir=DIR --coco=FOLDER [--limit=N] [--dry_run]

FOLDER is as the downloads unpack: annotations/instances_train2017.json,
annotations/instances_val2017.json, annotations/captions_train2017.json, train2017/*.jpg and
val2017/*.jpg.

Split `train` holds all training images with the boxes of the 48 base classes, their captions,
and as image-level labels the classes (of all 80) that the captions name.  `validation` holds the
images with a box of the 65 base and novel classes, and those boxes.  The 80 classes keep their
order.  Base and RKD train on the records with boxes (`data.box.records="boxes"`), ILS also on
those with labels (`data.image.records`).
"""

import os
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from rkd_jax.data import builder
from rkd_jax.data.coco_json import annotations
from rkd_jax.data.coco_json.split import AnnotatedSplit, images_with_boxes
from rkd_jax.data.coco_ovd import vocabulary

TRAIN_JSON = "annotations/instances_train2017.json"
VALIDATION_JSON = "annotations/instances_val2017.json"
CAPTIONS_JSON = "annotations/captions_train2017.json"


class CocoOvd(builder.RecordBuilder):
  """Open-vocabulary COCO; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, coco: str | os.PathLike, **kwargs: Any):
    """Reads the JSON; ValueError if it has a problem.  `builder.prepare` reads the images."""
    folder = Path(coco)
    base, novel = vocabulary.BASE, vocabulary.NOVEL
    train = _load(folder / TRAIN_JSON, folder / "train2017")
    validation = _load(folder / VALIDATION_JSON, folder / "val2017")
    captions = annotations.load_captions(folder / CAPTIONS_JSON, train, strip=False)
    evaluated = images_with_boxes(validation, (*base, *novel))

    numbers = {name: number for number, name in enumerate(train.class_names)}
    labels = {
      image_id: [numbers[name] for name in vocabulary.tags(own)]
      for image_id, own in captions.items()
    }
    stripped = {key: [caption.strip() for caption in own] for key, own in captions.items()}
    counted = {
      TRAIN_JSON: {
        "images": (len(train.images), 118_287),
        "images with a base box": (len(images_with_boxes(train, base)), 107_761),
      },
      VALIDATION_JSON: {
        "images": (len(validation.images), 5_000),
        "images with a box of the 65 classes": (len(evaluated), 4_836),
      },
      CAPTIONS_JSON: {"images": (sum(map(bool, captions.values())), 118_287)},
    }
    super().__init__(
      splits={
        "train": AnnotatedSplit(train, base, train.images, stripped, labels),
        "validation": AnnotatedSplit(validation, (*base, *novel), evaluated),
      },
      base=base,
      novel=novel,
      settings={name: builder.checksum(folder / name) for name in counted},
      totals=builder.compared(counted),
      **kwargs,
    )


def _load(path: Path, images: Path) -> annotations.Annotations:
  """The annotations; ValueError if their classes are not COCO's 80."""
  content = annotations.load_annotations(path, images, repair=True)
  if content.class_names != tuple(vocabulary.SYNONYMS):
    differing = sorted(set(content.class_names) ^ set(vocabulary.SYNONYMS))
    raise ValueError(
      f"{path}: 'categories' are not the 80 of COCO in their order ({differing[:10]} differ): "
      "use the official file, or data.coco_json for other classes."
    )
  return content


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--coco", required=True, help="folder of the official files")
  builder.run(parser, CocoOvd)


if __name__ == "__main__":
  main()
