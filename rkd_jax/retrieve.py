"""Boxes for names without annotations: the regions of all training images that are most like them.

  rkd-jax retrieve --root=ROOT
  python -m rkd_jax.retrieve --data_dir=DIR --dataset=shapes_ovd/scenes \\
    --splits=train_boxes,train_images --teachers=FOLDER --class_embeddings=F.npz \\
    --softmax=50 --keep --output=FOLDER2
  python -m rkd_jax.main --config=... --config.data.teachers=FOLDER2
  python -m rkd_jax.retrieve ... --rows=G.npz --mix=0.3
  python -m rkd_jax.main --mode=eval --config=... --workdir=RUN --config.class_embeddings=G.npz
  python -m rkd_jax.retrieve ... --detector=RUN --keep --output=FOLDER3

--teachers is what `rkd-jax precompute` wrote for the splits, --class_embeddings has the rows of the
same CLIP.  --root is the folder of an own project, which has these, the records and, in
ROOT/retrieved, the output.  --classes, by default all that are without annotations, get the --top
regions each with the greatest cosines (after LP-OVOD, arXiv 2310.17109), at most --per_image an
image; with --softmax=SCALE a region goes to the class that it is most like, and what counts is the
probability of that class among all.

The output is a copy of the teachers' folder with these as its pseudo boxes, behind those of the
teachers with --keep.  Image batches learn from it as from the other (data.image.teachers), and box
batches with data.box.pseudo_labels.

--rows writes class embeddings in which the rows of these classes are mixed with the direction of
their regions (--direction; see rkd_jax/pseudo_labels/rows.py).  --tune=RUN --tune_split=SPLIT
measures a detector with rows of several parts and takes the part with the best AP50 of novel
classes, in place of --mix: use a split that nothing is reported on.

--detector takes the detections of a trained detector in place of regions: those with a score above
--score that lie on one of the teachers' regions which CLIP gives to the same class (a round of
self-training; rkd_jax/pseudo_labels/refinement.py).  It can be killed, and goes on.

Printed, and in OUTPUT/retrieved.json, is how many boxes each class got, how like they are, and
where the records have annotations how many are right, which decides nothing.
OUTPUT/retrieved-0.png and so on show the best of each class.
"""

import argparse
import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rkd_jax.evaluation.evaluate import evaluate_detector
from rkd_jax.files import checksums, storage
from rkd_jax.files.terminal import print_any_name
from rkd_jax.frozen.detector import Detector
from rkd_jax.machine.compilation import return_memory_after_compiling
from rkd_jax.pictures.draw import png_bytes
from rkd_jax.pseudo_labels import looks, rows, summary, writing
from rkd_jax.pseudo_labels.candidates import Candidates
from rkd_jax.pseudo_labels.refinement import Agreement, Refiner
from rkd_jax.pseudo_labels.retrieval import Retrieved, Rule, retrieve
from rkd_jax.records import class_names as category_names
from rkd_jax.records.joined import Joined, join
from rkd_jax.records.results import DTYPES
from rkd_jax.records.sources import open_source
from rkd_jax.runs.config import restore_config
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.vocabulary.class_embeddings import FILE, ClassEmbeddings

# The places of an own project.
PROJECT = {
  "data_dir": "{root}/data",
  "dataset": "coco_json/plain",
  "splits": "train",
  "teachers": "{root}/teachers",
  "class_embeddings": "{root}/" + FILE,
  "output": "{root}/retrieved",
}
_NEEDED = tuple(name for name in PROJECT if name != "output")
SUMMARY = "retrieved.json"
MIXES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


def make_parser(description: str) -> argparse.ArgumentParser:
  """The flags of the command."""
  parser = argparse.ArgumentParser(
    description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add, rule, agreement = parser.add_argument, Rule(), Agreement()
  add("--root", help="folder of an own project, in place of what is not given")
  add("--data_dir", help="root folder of built data sets")
  add("--dataset", help="such as shapes_ovd/scenes")
  add("--splits", help="separated by commas")
  add("--teachers", help="the --output of rkd-jax precompute")
  add("--class_embeddings", help="rows of the same CLIP, for all classes of the data set")
  add("--output", help="folder for the results, perhaps gs://...")
  add("--classes", help="separated by commas, or @file; default: those without annotations")
  add("--top", type=int, default=rule.top, help="most regions of a class")
  add("--per_image", type=int, default=rule.per_image, help="most boxes of a class in an image")
  add("--softmax", type=float, default=rule.softmax, help="scale of cosines; 0 ranks by cosine")
  add("--threshold", type=float, help="bound of cosine, probability or, of a detector, both scores")
  add("--objectness", type=float, default=rule.objectness, help="least score of the proposer")
  add("--keep", action="store_true", help="keep the teachers' pseudo boxes, too")
  add("--embedding_dtype", default="float32", choices=DTYPES, help="of embeddings as stored")
  add("--skip_missing_results", action="store_true", help="leave out images without results")
  add("--rows", help=".npz to write: class embeddings with rows of regions")
  add("--direction", default="mean", choices=rows.DIRECTIONS, help="what a row is mixed with")
  add("--mix", type=float, default=0.3, help="part of the regions in a row, from 0 to 1")
  add("--tune", metavar="RUN", help="a detector with which the part is chosen")
  add("--tune_split", help="split for that")
  add("--detector", metavar="RUN", help="take a detector's detections in place of regions")
  add("--score", type=float, default=agreement.score, help="bound of the detector's own score")
  add("--overlap", type=float, default=agreement.overlap, help="least IoU with a region")
  add("--skip_bad_images", action="store_true", help="no boxes for unreadable images")
  return parser


def complete(args: argparse.Namespace) -> None:
  """Sets what --root stands for; ValueError where flags are missing or exclude each other."""
  if args.root is not None:
    for name, place in PROJECT.items():
      if getattr(args, name) is None:
        setattr(args, name, place.format(root=args.root))
  if missing := [name for name in _NEEDED if getattr(args, name) is None]:
    flags = ", ".join(f"--{name}" for name in missing)
    raise ValueError(f"{flags} must be given (or --root for an own project); --help explains them.")
  if args.output is None and args.rows is None:
    raise ValueError("give --output for a folder of pseudo boxes, or --rows for class embeddings.")
  if args.rows is not None:
    rows.check_mix(args.mix)
    if args.detector is not None:
      raise ValueError("--rows are made of the teachers' regions: leave --detector out.")
    if storage.path(args.rows) == storage.path(args.class_embeddings):
      raise ValueError(f"--rows={args.rows} is the file of --class_embeddings: give another one.")
  if args.output is None and args.detector is not None:
    raise ValueError("--detector needs --output, the folder for what it finds.")
  if (args.tune is None) != (args.tune_split is None) or (args.tune and args.rows is None):
    raise ValueError("--tune, --tune_split and --rows go together.")
  if args.output is not None and storage.path(args.output) == storage.path(args.teachers):
    raise ValueError(f"--output={args.output} is the folder of --teachers: give another one.")


def open_sources(args: argparse.Namespace) -> list[Joined]:
  """Each split with its results; ValueError where these are missing or do not belong to it."""
  opened = [open_source(args.data_dir, args.dataset, split) for split in args.splits.split(",")]
  return [
    join(source, args.teachers, labels=args.keep, skip_missing=args.skip_missing_results)
    for source in opened
  ]


def wanted_of(source: Joined, classes: str | None) -> list[int]:
  """Numbers of the classes that are named, by default of those without annotations.

  Raises ValueError: a name that the data set lacks, or there is none without annotations.
  """
  names = source.class_names
  if classes is not None:
    chosen = category_names.parse_names(classes)
    category_names.check_chosen(chosen, "--classes")
    category_names.check_names(chosen, names, "--classes")
    return sorted(names.index(name) for name in chosen)
  base = set(source.base)
  if not (wanted := [number for number, name in enumerate(names) if name not in base]):
    raise ValueError(
      f"{source.name} has annotations for all of its {len(names)} classes: say with --classes "
      "which ones get boxes."
    )
  return wanted


def vocabulary_of(
  args: argparse.Namespace, sources: Sequence[Joined]
) -> tuple[ClassEmbeddings, Float[np.ndarray, "c d"]]:
  """The file of class embeddings, and its rows of the data set's classes.

  Raises ValueError: a class without a row, a closed vocabulary, or another width than the results.
  """
  names = sources[0].class_names
  stored = class_embeddings.load(args.class_embeddings, names)
  if stored.is_closed:
    raise ValueError(
      f"{args.class_embeddings} is of a closed vocabulary, made without a CLIP, so that no region "
      "is like a name: make the rows with the CLIP of the teachers (rkd-jax embed-classes)."
    )
  vocabulary = class_embeddings.select(stored, names, args.class_embeddings)
  for source in sources:
    if source.results.embedding_dim != vocabulary.shape[1]:
      raise ValueError(
        f"{args.class_embeddings} has rows {vocabulary.shape[1]} wide, but the embeddings in "
        f"{source.results.folder} are {source.results.embedding_dim} wide: give the class "
        "embeddings of the CLIP that --teachers was made with."
      )
  return stored, vocabulary


def report(
  args: argparse.Namespace,
  sources: Sequence[Joined],
  wanted: Sequence[int],
  found: Sequence[Candidates],
  scores: Sequence[np.ndarray],
) -> None:
  """Prints the summary, and writes it and the sheets to the output, if there is one."""
  content = summary.summarize(sources, found, wanted, scores)
  print(summary.told(content))
  if content["without"]:
    print(
      f"WARNING: no box above the bounds for {', '.join(content['without'])}: lower --threshold, "
      "--objectness or --score, or these classes have no such objects in the images."
    )
  if args.output is None:
    return
  folder = storage.path(args.output)
  storage.write(folder / SUMMARY, json.dumps(content, indent=1) + "\n")
  for number, picture in enumerate(looks.sheets(sources, found, scores)):
    storage.write(folder / f"retrieved-{number}.png", png_bytes(picture))
    print(folder / f"retrieved-{number}.png")


def by_regions(
  args: argparse.Namespace,
  sources: Sequence[Joined],
  stored: ClassEmbeddings,
  vocabulary: Float[np.ndarray, "c d"],
  wanted: Sequence[int],
) -> None:
  """Retrieves regions; writes pseudo boxes and rows as asked for."""
  rule = _rule(Rule, args)
  sample = rows.SAMPLE if args.rows and args.direction == "probe" else 0
  settings = {"of_regions": dataclasses.asdict(rule), **_described(args, vocabulary, wanted)}
  # Opened first: a folder of other settings is refused before any work.
  writers = [_writer(args, source, settings) for source in sources if args.output is not None]
  retrieved = retrieve(sources, vocabulary, wanted, rule, sample)
  found = retrieved.best.all()
  scores = [rule.scores(own.keys) for own in found]
  for split, (source, writer) in enumerate(zip(sources, writers)):
    of_image = _by_image(found, scores, split)
    image_ids = source.index.image_ids.tolist()
    labelled = functools.partial(map, lambda i, of=of_image, ids=image_ids: of(ids[i]))
    writing.write(source, writer, labelled, args.keep)
  report(args, sources, wanted, found, scores)
  if args.rows is not None:
    write_rows(args, stored, vocabulary, sources[0].class_names, retrieved, wanted)


def _by_image(
  found: Sequence[Candidates], scores: Sequence[np.ndarray], split: int
) -> Callable[[int], writing.Labelled]:
  """A function from the id of an image of a split to its boxes, the best first."""
  own: dict[int, list[tuple[float, int, np.ndarray]]] = {}
  for part, of_part in zip(found, scores):
    for row in np.flatnonzero(part.splits == split).tolist():
      entry = (float(of_part[row]), int(part.labels[row]), part.boxes[row])
      own.setdefault(int(part.image_ids[row]), []).append(entry)

  def of_image(image_id: int) -> writing.Labelled:
    entries = sorted(own.get(image_id, []), key=lambda entry: (-entry[0], entry[1]))
    return writing.Labelled(
      boxes=np.array([box for *_, box in entries], np.float32).reshape(-1, 4),
      labels=np.array([label for _, label, _ in entries], np.int64),
      scores=np.array([entry[0] for entry in entries], np.float32),
    )

  return of_image


def by_detector(
  args: argparse.Namespace,
  sources: Sequence[Joined],
  vocabulary: Float[np.ndarray, "c d"],
  wanted: Sequence[int],
) -> None:
  """Writes what a detector finds and CLIP agrees with as pseudo boxes."""
  if args.softmax:
    rule = _rule(Agreement, args, scale=args.softmax)
  else:
    rule = _rule(Agreement, args)
  config = restore_config(args.detector)
  width = config.model.classifier.embedding_dim
  if width != vocabulary.shape[1]:
    raise ValueError(
      f"--detector={args.detector} compares with rows {width} wide, those of "
      f"{args.class_embeddings} are {vocabulary.shape[1]} wide: give the rows that it learned with."
    )
  detector = Detector.restore(config, args.detector)
  refiner = Refiner(detector, vocabulary, wanted, rule, args.skip_bad_images)
  settings = {
    "of_detector": {
      **dataclasses.asdict(rule),
      "checkpoint": checksums.of_arrays(detector.variables),
    },
    **_described(args, vocabulary, wanted),
  }
  writers = [_writer(args, source, settings) for source in sources]
  for source, writer in zip(sources, writers):
    writing.write(source, writer, functools.partial(refiner.labelled, source), args.keep)
  found = summary.stored(sources, args.output, wanted)
  if args.keep:
    print("The teachers' own pseudo boxes of these classes are counted, too.")
  report(args, sources, wanted, found, [own.keys for own in found])


def write_rows(
  args: argparse.Namespace,
  stored: ClassEmbeddings,
  vocabulary: Float[np.ndarray, "c d"],
  names: Sequence[str],
  retrieved: Retrieved,
  wanted: Sequence[int],
) -> None:
  """Writes the class embeddings with mixed rows, with the part that was tuned or given."""
  having = rows.with_regions(retrieved, wanted).tolist()
  if not having:
    raise ValueError("no class has a region, so that there is no row to mix: lower the bounds.")
  towards = rows.directions(args.direction, retrieved, having)
  clip = stored.clip
  if clip is not None and not storage.is_remote(args.rows):
    # Said from the folder of its file.
    places = (os.path.dirname(os.path.abspath(file)) for file in (args.class_embeddings, args.rows))
    clip = os.path.relpath(os.path.join(next(places), clip), next(places))

  def save(mix: float, place: str) -> None:
    mixed = rows.mix_rows(vocabulary, towards, having, mix)
    templates = stored.templates or (class_embeddings.TEMPLATE,)
    class_embeddings.save(place, names, templates, mixed, clip)

  mix = args.mix if args.tune is None else _tuned(args, save)
  save(mix, args.rows)
  left = len(wanted) - len(having)
  print(
    f"{args.rows}: {len(having)} rows, {1 - mix:g} of their texts and {mix:g} of their regions"
    + (f"; {left} without regions have their texts' rows." if left else ".")
  )


def _tuned(args: argparse.Namespace, save: Callable[[float, str], None]) -> float:
  """The part of `MIXES` with the best AP50 of novel classes; of equals the smallest."""
  config, measured = restore_config(args.tune), []
  # Only the rows that are chosen are ever written where they are asked for.
  with tempfile.TemporaryDirectory() as folder:
    tried = os.path.join(folder, FILE)
    with config.unlocked():
      config.data.dir, config.data.name = args.data_dir, args.dataset
      config.data.eval.split, config.class_embeddings = args.tune_split, tried
    detector = Detector.restore(config, args.tune)
    for mix in MIXES:
      save(mix, tried)
      found = evaluate_detector(config, detector) or {}
      measured.append(found["AP50_novel"])
      shown = ", ".join(f"{found[f'AP50_{part}']:.1f} {part}" for part in ("novel", "base", "all"))
      print(f"mix {mix:g}: AP50 {shown}")
  return MIXES[int(np.argmax(measured))]


def _rule(kind: type, args: argparse.Namespace, **more: Any):
  """A `Rule` or `Agreement` of the flags of the same names."""
  given = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
  return kind(**{**{name: value for name, value in given.items() if value is not None}, **more})


def _described(
  args: argparse.Namespace, vocabulary: np.ndarray, wanted: Sequence[int]
) -> dict[str, Any]:
  return {
    "wanted": list(wanted),
    "class_embeddings": checksums.of_arrays(vocabulary),
    "keep": args.keep,
  }


def _writer(args: argparse.Namespace, source: Joined, settings: dict[str, Any]):
  return writing.open_writer(args.output, source, settings, args.embedding_dtype)


def main(arguments: Sequence[str] | None = None):
  """Command line of the module's docstring."""
  parser = make_parser(__doc__)
  args = parser.parse_args(arguments)
  return_memory_after_compiling()
  print_any_name()
  try:
    complete(args)
    sources = open_sources(args)
    wanted = wanted_of(sources[0], args.classes)
    stored, vocabulary = vocabulary_of(args, sources)
    if args.detector is not None:
      by_detector(args, sources, vocabulary, wanted)
    else:
      by_regions(args, sources, stored, vocabulary, wanted)
  except (ValueError, ImportError, OSError) as error:
    parser.exit(1, f"{error}\n")


if __name__ == "__main__":
  main()
