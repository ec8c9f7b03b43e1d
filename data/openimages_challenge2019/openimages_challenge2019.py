"""TFDS builder of the validation images of the Open Images Challenge 2019 (detection, 500 classes).

    python -m rkd_jax.data.openimages_challenge2019.openimages_challenge2019 --data_dir=DIR \\
      --openimages=FOLDER --images=FOLDER [--limit=N] [--dry_run]

The first folder holds the files of the challenge,

    challenge-2019-classes-description-500.csv
    challenge-2019-label500-hierarchy.json
    challenge-2019-validation-detection-bbox.csv
    challenge-2019-validation-detection-human-imagelabels.csv

the second the images, called <ImageID>.jpg.  Split `validation` holds every image that has boxes
or labels, by ascending ImageID; image ids are 1, 2, ... in that order.  All classes are novel:
nothing here is trained on.

Boxes and labels are spread along the hierarchy (`files.py`), so that an evaluation must not do it
again.  Boxes of groups are crowds.  Classes that people verified to be in an image are its labels,
those they verified not to be there its `negative_labels`.

    python -m rkd_jax.main --config=configs/lvis/rkd_ils.py --workdir=RUN --mode=eval \\
      --config.data.dir=DIR --config.data.name=openimages_challenge2019/plain \\
      --config.class_embeddings=F.npz --config.evaluation.protocol=open_images

then evaluates a detector by text embeddings F of these classes and the challenge's rules
(`rkd_jax.evaluation.open_images`).
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from rkd_jax.data import builder, making
from rkd_jax.data.openimages_challenge2019 import files
from rkd_jax.records import schema

CLASSES_CSV = "challenge-2019-classes-description-500.csv"
HIERARCHY_JSON = "challenge-2019-label500-hierarchy.json"
BOXES_CSV = "challenge-2019-validation-detection-bbox.csv"
LABELS_CSV = "challenge-2019-validation-detection-human-imagelabels.csv"


@dataclasses.dataclass(frozen=True)
class OpenImagesSplit(making.Split):
  """Images of Open Images in a folder, and how many boxes without area were left out."""

  source: str
  class_names: Sequence[str]
  images: Sequence[files.AnnotatedImage]
  num_empty: int = 0

  federated = True

  def describe(self, name: str) -> list[str]:
    """Counts."""
    boxes = sum(len(image.classes) for image in self.images)
    groups = sum(int(image.is_group.sum()) for image in self.images)
    positive = sum(len(image.positive) for image in self.images)
    negative = sum(len(image.negative) for image in self.images)
    return [
      f"{name}: {len(self.images)} images; along the hierarchy {boxes} boxes, {groups} of them of "
      f"groups, {positive} classes verified to be there and {negative} not to be there",
      f"{name}: {self.num_empty} boxes without area left out",
    ]

  def image_counts(self) -> list[int]:
    return making.image_counts((image.classes for image in self.images), len(self.class_names))

  def entries(self, start: int = 0, stop: int | None = None) -> Iterator[making.Entry]:
    for number, image in enumerate(self.images[start:stop], start=start + 1):
      path = Path(self.source) / f"{image.name}.jpg"
      fields = {
        "image_id": number,
        "filename": path.name,
        "boxes": image.boxes,
        "classes": image.classes,
        "is_crowd": image.is_group,
        "labels": image.positive,
        "federated": dict(zip(schema.FEDERATED, (image.negative, ()))),
      }
      yield making.Entry(making.Place(path), str(path), fields, fractions=True)


class OpenimagesChallenge2019(builder.RecordBuilder):
  """Open Images Challenge 2019, validation; see the module's docstring."""

  name = "openimages_challenge2019"
  VERSION = tfds.core.Version("1.1.0")

  def __init__(self, *, openimages: str | os.PathLike, images: str | os.PathLike, **kwargs: Any):
    """Reads the files; ValueError if one has a problem.  `builder.prepare` reads the images."""
    folder = Path(openimages)
    classes = files.load_classes(folder / CLASSES_CSV)
    ancestors = files.load_ancestors(folder / HIERARCHY_JSON, list(classes))
    found, num_empty = files.load_images(
      folder / BOXES_CSV, folder / LABELS_CSV, list(classes), ancestors
    )
    names = list(classes.values())
    used = (CLASSES_CSV, HIERARCHY_JSON, BOXES_CSV, LABELS_CSV)
    super().__init__(
      splits={"validation": OpenImagesSplit(str(images), names, found, num_empty)},
      novel=names,
      settings={name: builder.checksum(folder / name) for name in used},
      ancestors=ancestors,
      totals=builder.compared({CLASSES_CSV: {"classes": (len(classes), 500)}}),
      **kwargs,
    )


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--openimages", required=True, help="folder of the challenge's files")
  parser.add_argument("--images", required=True, help="folder of <ImageID>.jpg")
  builder.run(parser, OpenimagesChallenge2019)


if __name__ == "__main__":
  main()
