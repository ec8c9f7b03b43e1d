"""TFDS builder for your own images with annotations in COCO format.

    python -m rkd_jax.data.coco_json.coco_json --data_dir=DIR \\
      --train_json=train.json --train_images=FOLDER \\
      [--validation_json=val.json --validation_images=FOLDER] \\
      [--base='cat,dog' | --base=@names.txt] [--novel=...] \\
      [--train_captions=captions.json] [--train_tags=tags.json] [--repair] [--limit=N] [--dry_run]

Split `train` keeps the boxes of base classes only, `validation` those of base and novel
classes; boxes of any other class are left out.  Without --base every class that is not
novel is a base class.  Image-level labels are the tags (JSON: {file name: [class name, ...]})
and the class names that occur in the captions (COCO captions JSON), '_' read as a space and
without notes in brackets.  Polygons are kept where the JSON has them, for detectors with a mask
head; run lengths are not.

Everything that is wrong with a file is said at once.  With --repair boxes that stick out of their
image are clipped and those without area left out, and counted.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from rkd_jax.data import builder
from rkd_jax.data.coco_json import annotations
from rkd_jax.data.coco_json.made import Made
from rkd_jax.data.coco_json.split import AnnotatedSplit, divide
from rkd_jax.records import class_names as category_names


class Files(NamedTuple):
  """Where a split comes from: COCO JSON, the folder of its images, optional captions and tags.

  In place of the JSON there may be what was `made.Made` of another format.
  """

  json: str | os.PathLike | Made
  images: str | os.PathLike
  captions: str | os.PathLike | None = None
  tags: str | os.PathLike | None = None

  def checksums(self) -> dict[str, str]:
    """A checksum of every file that is given."""
    files = {name: file for name, file in self._asdict().items() if file and name != "images"}
    return {
      name: file.checksum if isinstance(file, Made) else builder.checksum(file)
      for name, file in files.items()
    }


def _split(files: Files, content: annotations.Annotations, kept: Sequence[str]) -> AnnotatedSplit:
  """The images with their captions, and labels from captions and tags."""
  captions = annotations.load_captions(files.captions, content) if files.captions else {}
  tags = annotations.load_tags(files.tags, content) if files.tags else {}
  labels = {}
  for image in content.images:
    own = captions.get(image.image_id, ())
    names = {*tags.get(image.image_id, ()), *category_names.named_in(own, content.class_names)}
    labels[image.image_id] = [i for i, name in enumerate(content.class_names) if name in names]
  return AnnotatedSplit(content, kept, content.images, captions, labels)


class CocoJson(builder.RecordBuilder):
  """A folder of images with COCO-format JSON; see the module's docstring."""

  VERSION = tfds.core.Version("1.1.0")

  def __init__(
    self,
    *,
    train: Files,
    validation: Files | None = None,
    validation_share: float = 0.0,
    base: Sequence[str] | None = None,
    novel: Sequence[str] = (),
    repair: bool = False,
    **kwargs: Any,
  ):
    """Reads and checks the JSON files; images are read by `builder.prepare`.

    `base` None takes every class that is not novel; `repair` is that of `load_annotations`.  Where
    there is no `validation`, about `validation_share` of the images become that split (`divide`).
    Raises ValueError: a problem with the files, the class lists.
    """
    named = {*map(category_names.clean_name, (*(base or ()), *novel))}
    content = annotations.load_annotations(train.json, train.images, repair=repair, keep=named)
    names, notes = content.class_names, {"train": dict(content.notes)}
    base, novel = category_names.split_classes(names, base, novel)
    splits = {"train": _split(train, content, base)}
    if validation is None and validation_share:
      whole = splits["train"]
      train_images, held_out = divide(whole.images, validation_share)
      splits["train"] = dataclasses.replace(whole, images=train_images)
      splits["validation"] = dataclasses.replace(whole, images=held_out, kept=(*base, *novel))
    if validation is not None:
      content = annotations.load_annotations(
        validation.json, validation.images, repair=repair, keep=names
      )
      notes["validation"] = dict(content.notes)
      splits["validation"] = _split(validation, content, (*base, *novel))
      if (found := content.class_names) != names:
        raise ValueError(
          f"{content.path} has other categories than {splits['train'].source}: "
          f"{sorted(set(found) ^ set(names)) or 'the same names in another order of ids'}. "
          "Give both files the same 'categories'."
        )
    files = {
      "train": train.checksums(),
      "validation": None if validation is None else validation.checksums(),
    }
    settings = {**files, "base": list(base), "novel": list(novel)}
    # What is off is not there: earlier versions, which read such files otherwise, had none of it.
    settings["notes"] = {split: own for split, own in notes.items() if own} or None
    settings["repair"] = repair or None
    settings["validation_share"] = None if validation else validation_share or None
    given = any(own and own.captions for own in (train, validation))
    spoken = [name for name in names if category_names.spoken(name) != name.casefold()]
    settings["spoken"] = spoken if given and spoken else None
    super().__init__(splits=splits, base=base, novel=novel, settings=settings, **kwargs)


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--train_json", required=True)
  parser.add_argument("--train_images", required=True)
  parser.add_argument("--train_captions")
  parser.add_argument("--train_tags")
  parser.add_argument("--validation_json")
  parser.add_argument("--validation_images")
  parser.add_argument("--base", help="names separated by commas, or @file with one per line")
  parser.add_argument("--novel", default="", help="as --base")
  parser.add_argument("--repair", action="store_true", help="clip boxes, leave out empty ones")

  def make(base: str | None, novel: str, **settings: Any) -> CocoJson:
    train, validation = (
      Files(*(settings.pop(f"{split}_{name}", None) for name in Files._fields))
      for split in ("train", "validation")
    )
    if (validation.json is None) != (validation.images is None):
      parser.error("--validation_json and --validation_images belong together")
    return CocoJson(
      train=train,
      validation=validation if validation.json else None,
      base=None if base is None else category_names.parse_names(base),
      novel=category_names.parse_names(novel),
      **settings,
    )

  builder.run(parser, make)


if __name__ == "__main__":
  main()
