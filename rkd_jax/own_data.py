"""Your own annotated photographs become records and class embeddings, ready to train on.

  rkd-jax data --source=FOLDER --output=ROOT --clip=ViT-B-32.pt
  rkd-jax data --source=FOLDER --output=ROOT --novel='cat, dog' --class_embeddings=MATRIX.npy
  rkd-jax data --source=train.json --validation=val.json --output=ROOT --closed

The source may be

  COCO JSON   a file, or a folder with train.json and val.json, annotations/instances_*.json, or
              train/_annotations.coco.json and valid/ as Roboflow has them; the folder of the images
              is looked for
  Pascal VOC  a folder with Annotations/*.xml and JPEGImages, and ImageSets/Main where it has lists
  YOLO        a data.yaml, or a folder with it, or with images/ and labels/ and a classes.txt;
              boxes or the polygons of segmentation

Everything that is wrong with the annotations is said at once, with the file, and the line or the
element.  Where there is no validation, about a tenth of the images become it, chosen by the names
of their files.  Boxes of --novel classes are left out of training and evaluated on.

ROOT/data gets the records (data set coco_json/plain), ROOT/class_embeddings.npz the rows of the
classifier:

  --clip              embeds 'a photo of a NAME' with a CLIP, '_' in names read as a space; new
                      names can be embedded later, and RKD can be trained
  --class_embeddings  takes the rows of a file, by name; a .npy without names has a row for every
                      class, in the order of COCO's ids or YOLO's numbers
  --closed            makes orthogonal rows, without any CLIP: to try the data before there are
                      weights; such a detector finds these classes and never any other

Without one of them training cannot begin; the command can be given again with one, and keeps the
records.
"""

import argparse
import os
from collections.abc import Sequence

from etils import epath

from rkd_jax.data import builder
from rkd_jax.data.coco_json.coco_json import CocoJson
from rkd_jax.data.own import coco, voc
from rkd_jax.data.own import found as own
from rkd_jax.files import storage
from rkd_jax.files.json_lists import Problems
from rkd_jax.files.terminal import print_any_name
from rkd_jax.frozen.clip import load_clip
from rkd_jax.records import class_names as category_names
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.vocabulary.class_embeddings import CLOSED, FILE, ClassEmbeddings


def open_data(found: own.Found, args: argparse.Namespace) -> CocoJson:
  """Reads and checks the annotations; says what was found.

  Raises ValueError: something is wrong with them.
  """
  print(f"{args.source}: {found.format}, with {', '.join(found.splits)}")
  if "test" in found.splits:
    print("The images of 'test' are not used.")
  files = own.read(found, args.skip_bad_images, args.max_pixels)
  for role, split in files.items():
    if found.format == coco.NAME:
      print(f"{role}: {split.json}, images in {split.images}")
  share = 0.0 if "validation" in files else args.validation_share
  if share:
    print(f"No validation was found: {share:.0%} of the images, by the names of files, become it.")
  data = CocoJson(
    data_dir=f"{args.output}/data",
    train=files["train"],
    validation=files.get("validation"),
    validation_share=share,
    base=None if args.base is None else category_names.parse_names(args.base),
    novel=category_names.parse_names(args.novel),
    repair=args.repair,
    limit=args.limit,
    skip_bad_images=args.skip_bad_images,
    max_pixels=args.max_pixels,
    workers=args.workers,
  )
  check_images(data)
  if both := shared_images(data):
    print(
      f"WARNING: {len(both)} images are in train and in validation, such as {both[0]}: evaluations "
      "will be better than on new images."
    )
  return data


def check_images(data: CocoJson) -> None:
  """Raises ValueError: images are not there; it has all of them."""
  problems = Problems(data.splits["train"].source)
  for split in data.splits.values():
    for image in split.images:
      if not image.path.is_file():
        problems.add(
          "image",
          f"{image.path} (image id {image.image_id} of {split.source}) is not there: add it, or "
          "remove it from the annotations.",
        )
  problems.check()


def shared_images(data: CocoJson) -> list[str]:
  """The files of images that are in several splits, sorted."""
  files = [{image.path.resolve() for image in split.images} for split in data.splits.values()]
  return sorted(map(str, set.intersection(*files))) if len(files) > 1 else []


def make_rows(
  names: Sequence[str], args: argparse.Namespace, ordered: bool = True
) -> ClassEmbeddings | None:
  """The rows of the names that the flags ask for; None where they ask for none.

  `ordered` says that the annotations number their classes, so that rows without names may follow.

  Raises:
    ValueError: a name that the CLIP's tokenizer refuses or the file has no row for, or another
      problem with either.
    FileNotFoundError: there is no such file.
  """
  if args.closed:
    rows, template = class_embeddings.closed_rows(len(names), args.embedding_dim), CLOSED
    return ClassEmbeddings(rows, tuple(names), (template,))
  if args.clip is not None:
    clip, template = load_clip(args.clip, args.activation), class_embeddings.TEMPLATE
    spoken = [(name.replace("_", " "),) for name in names]
    rows = class_embeddings.embed_classes(clip, names, template, spoken)
    return ClassEmbeddings(rows, tuple(names), (template,), os.path.abspath(args.clip))
  if args.class_embeddings is None:
    return None
  stored = class_embeddings.load(args.class_embeddings)
  if stored.names is None:
    count = len(stored.embeddings)
    if not ordered or count != len(names):
      order = "" if ordered else ", which their format does not number"
      raise ValueError(
        f"{args.class_embeddings} has {count} rows without names, the annotations have "
        f"{len(names)} classes{order}. Give its rows their names, and then the file that has them: "
        f"rkd-jax embed-classes --embeddings={args.class_embeddings} --names=@NAMES.txt "
        f"--output=NAMED.npz, with {count} names, one per line."
      )
    print(
      f"{args.class_embeddings} has no names: its rows are taken in the order of the classes, the "
      f"first for {names[0]!r}, the last for {names[-1]!r}."
    )
    stored = stored._replace(names=tuple(names))
  rows = class_embeddings.select(stored, names, args.class_embeddings)
  templates = stored.templates or ("unknown",)
  return ClassEmbeddings(rows, tuple(names), templates, stored.clip)


def _what_is_missing(file: epath.Path, names: Sequence[str]) -> str:
  """What training needs where no rows were asked for."""
  if file.exists():
    stored = class_embeddings.load(file)
    class_embeddings.select(stored, names, file)
    return f"{file} is there from before, and has a row for every class."
  return (
    f"{file} is not there, and training needs it: give this command again with --clip=WEIGHTS, "
    "with --class_embeddings=MATRIX, or with --closed to try the data without any CLIP."
  )


def make_parser() -> argparse.ArgumentParser:
  """The flags of the module's docstring."""
  raw = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
  add = parser.add_argument
  add("--source", required=True, help="folder or file with the annotations")
  add("--output", required=True, metavar="ROOT", help="folder of the project, for all that is made")
  add("--validation", help="folder or file with annotations to evaluate on")
  add("--validation_share", type=float, default=0.1, help="of the images, where there is none")
  add("--novel", default="", help="classes to evaluate only: 'cat, dog', or @file, one per line")
  add("--base", help="classes to train on, by default all that are not novel")
  rows = parser.add_mutually_exclusive_group()
  rows.add_argument("--clip", help="workdir of a CLIP run, or a file of published weights")
  rows.add_argument("--class_embeddings", metavar="MATRIX", help=".npz or .npy, a row per class")
  rows.add_argument("--closed", action="store_true", help="orthogonal rows, without any CLIP")
  add(
    "--activation", choices=("quick_gelu", "gelu"), help="of --clip's weights; see frozen/clip.py"
  )
  add("--embedding_dim", type=int, default=512, help="width of the rows of --closed")
  add("--repair", action="store_true", help="clip boxes, leave out empty ones")
  builder.add_flags(parser)
  return parser


def main(arguments: Sequence[str] | None = None):
  """Command line of the module's docstring."""
  parser = make_parser()
  args = parser.parse_args(arguments)
  print_any_name()
  try:
    file = storage.path(args.output) / FILE
    found = own.recognise(args.source, args.validation)
    data = open_data(found, args)
    names = next(iter(data.splits.values())).class_names
    # Before the records, which take longer.
    made = make_rows(names, args, ordered=found.format != voc.NAME)
    builder.build(data, args.dry_run)
    if args.dry_run:
      return
    if made is None:
      print(_what_is_missing(file, names))
      return
    class_embeddings.save(file, names, made.templates, made.embeddings, made.clip)
  except (ValueError, OSError) as error:
    parser.exit(1, f"{error}\n")
  print(f"{file}: {len(names)} classes, {made.embeddings.shape[1]} dimensions")


if __name__ == "__main__":
  main()
