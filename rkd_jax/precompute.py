"""The offline step: what the frozen teachers say about every image, computed once.

  rkd-jax precompute --root=ROOT --clip=ViT-B-32.pt
  python -m rkd_jax.precompute --data_dir=DIR --dataset=shapes_ovd/scenes \\
    --splits=train_boxes,train_images --clip=DIR_OF_A_CLIP_RUN --output=FOLDER
  python -m rkd_jax.precompute --data_dir=DIR --dataset=coco_json/plain --splits=train \\
    --proposals=mvit --checkpoint=MDef_DETR_r101_epoch20.pth --vocabulary=vocab.json \\
    --merges=merges.txt --clip=ViT-B-32.pt --pseudo_box_threshold=0.95 --output=FOLDER
  python -m rkd_jax.main --config=... --config.data.teachers=FOLDER

--root is the folder of an own project, which `rkd-jax data` began.  It stands for the split train
of ROOT/data, coco_json/plain, and for ROOT/teachers as the output.  Without --proposals the RPN of
ROOT/base proposes where that run is there, and MAVL where its files are given.

For each image a class-agnostic proposer yields boxes.  The best few become the regions of RKD
(arXiv 2207.03482, section 3.2) with their CLIP embeddings, not normalised.  Each image-level
label gets its pseudo box for ILS (section 3.3): the answer of the proposer to the class's name
where it reads text, else the proposal that CLIP likes best.

--proposals says where boxes come from:

  regions   grown from colours (rkd_jax/teachers/region_growing.py); no model
  mvit      MAVL: --checkpoint, and --vocabulary and --merges of roberta-base
  rpn       the RPN of a trained detector: --checkpoint=WORKDIR
  owl_vit   OWL-ViT through Google's Scenic: --checkpoint, --owl_vit_config
  FOLDER    the --output of another run, whose regions are embedded with this --clip

After the first hundred images and at the end it is said how many of the annotated boxes the regions
hold; below 30 % it warns and says what to do.

With published CLIP weights crops are CLIP's own (--crop_mode=clip --context=0), as in the original.

The results are a data set beside the records (`rkd_jax/records/results.py`), which training joins
when it reads.  --embedding_dtype=float16 halves it and rounds embeddings to half precision, each
value by at most 2^-11 of itself.

A run may be killed at any moment: started again with the same settings it carries on behind the
parts that are complete, and ends with the same bytes.  A process computes on all its local
devices, each with a copy of the model that proposes, compiled for it.  Several machines share a
split when each is started with its own --process_index of --process_count and the same --output.
With --beam='--runner=DataflowRunner ...' (extra `beam`) the workers of Apache Beam share it; data,
weights and output must be at paths that all can reach, and results are the same, in the same
folder.  The output may be remote (gs://bucket/folder): each part goes there when it is complete.
An image that cannot be read gets an empty record, a box that is empty or outside is dropped; both
are listed with the reason in the split's report.json, next to the agreement with annotated boxes.
With --no-skip_bad_images an image that cannot be read ends the run.
"""

import argparse
import dataclasses
import functools
import json
import shlex
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from rkd_jax.files import storage
from rkd_jax.files.terminal import print_any_name
from rkd_jax.files.untrusted.hugging_face import is_published
from rkd_jax.machine.compilation import return_memory_after_compiling
from rkd_jax.machine.workers import process_pool
from rkd_jax.ops.host import unit
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.runs.checkpoint import steps_of
from rkd_jax.teachers.images import Options
from rkd_jax.teachers.pipeline import assess, precompute
from rkd_jax.teachers.ranges import missing_ranges, write_range
from rkd_jax.teachers.recall import FirstLook, told
from rkd_jax.teachers.settings import Settings, Teachers, open_teachers
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.vocabulary.class_embeddings import FILE, ClassEmbeddings

# The places of an own project.
PROJECT = {
  "data_dir": "{root}/data",
  "dataset": "coco_json/plain",
  "splits": "train",
  "output": "{root}/teachers",
}
# Rows of one CLIP for one name with different prompts have cosines of 0.7 and more, those of
# two CLIPs about 0.
LEAST_LIKENESS = 0.4
# What replaces the defaults of `Options` where crops are embedded with published weights.
PUBLISHED_CROPS = {"crop_mode": "clip", "context": 0.0}


def make_parser(description: str) -> argparse.ArgumentParser:
  """The flags of the offline step."""
  parser = argparse.ArgumentParser(
    description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for field in dataclasses.fields(Settings):
    if field.name != "options":
      missing = field.default is dataclasses.MISSING or field.name == "proposals"
      default = None if missing else field.default
      if isinstance(default, bool):
        kind = {"action": argparse.BooleanOptionalAction}
      else:
        kind = {"type": int if isinstance(default, int) else str}
      parser.add_argument(f"--{field.name}", default=default, **kind, **field.metadata)
  parser.add_argument("--root", help="folder of an own project, in place of what is not given")
  parser.add_argument("--splits", help="separated by commas")
  parser.add_argument("--output", help="folder for the results, perhaps gs://...")
  parser.add_argument("--records_per_shard", type=int, default=512, help="most that a kill costs")
  for field in dataclasses.fields(Options):
    parser.add_argument(
      f"--{field.name}", type=type(field.default), help=f"default {field.default}"
    )
  parser.add_argument("--workers", type=int, help="processes that decode, by default one per CPU")
  parser.add_argument("--process_index", type=int, help="default: that of jax.distributed, or 0")
  parser.add_argument("--process_count", type=int, help="default: that of jax.distributed, or 1")
  parser.add_argument(
    "--beam", type=shlex.split, metavar="FLAGS", help="run on Apache Beam, as '--runner=...'"
  )
  return parser


def complete(args: argparse.Namespace) -> None:
  """Sets what is not given: for --root where its project has it, and what proposes.

  Raises ValueError: something is missing, or the project has a closed vocabulary.
  """
  if args.root is not None:
    if (rows := _rows_of(args.root)) and rows.is_closed:
      raise ValueError(
        f"{args.root}/{FILE} is of a closed vocabulary, made without a CLIP, but RKD compares "
        "regions with a CLIP's embeddings: make the rows with that CLIP (rkd-jax data ... "
        "--clip=WEIGHTS, which keeps the records), and train the base again."
      )
    for name, place in PROJECT.items():
      if getattr(args, name) is None:
        setattr(args, name, place.format(root=args.root))
  given = [args.checkpoint, args.vocabulary, args.merges]
  if args.proposals is None and all(given):
    args.proposals = "mvit"
  elif args.proposals is None and args.root and not args.checkpoint and steps_of(_base(args.root)):
    args.proposals, args.checkpoint = "rpn", _base(args.root)
  if args.root is not None:
    where = f" of {args.checkpoint}" if args.checkpoint else ""
    print(f"Proposals: {args.proposals or 'regions'}{where}")
    if args.proposals is None:
      print(
        f"WARNING: regions are grown from colours, which finds few objects of photographs. Train "
        f"{_base(args.root)} first (rkd-jax train --config=coco_json:base,root={args.root} "
        f"--workdir={_base(args.root)}), whose RPN then proposes, or give MAVL's --checkpoint, "
        "--vocabulary and --merges."
      )
  needed = [*PROJECT, "clip"]
  if missing := [name for name in needed if getattr(args, name) is None]:
    flags = ", ".join(f"--{name}" for name in missing)
    instead = " (or --root for an own project)" if missing != ["clip"] else ""
    raise ValueError(f"{flags} must be given{instead}; --help says what each is.")


def _base(root: str) -> str:
  return f"{root}/base"


def _rows_of(root: str) -> ClassEmbeddings | None:
  """The class embeddings of an own project, None before there are any."""
  file = storage.path(root) / FILE
  return class_embeddings.load(file) if file.exists() else None


def check_clip(teachers: Teachers, root: str) -> None:
  """Compares a project's class embeddings with the CLIP of the teachers; warns of another CLIP.

  Raises ValueError: they have another width, so that no detector can be trained on both.
  """
  stored = _rows_of(root)
  if stored is None:
    print(f"WARNING: {root}/{FILE} is not there; make it with the same --clip to train.")
    return
  width = stored.embeddings.shape[1]
  if width != teachers.embedding_dim:
    raise ValueError(
      f"{root}/{FILE} has {width} dimensions, but --clip has {teachers.embedding_dim}: give "
      "the CLIP that made the class embeddings, or make them with this one (rkd-jax data)."
    )
  names = teachers.source.class_names
  if teachers.class_embeddings is None or not set(names) <= set(stored.names or ()):
    return
  rows = class_embeddings.select(stored, names, root)
  likeness = (unit(rows) * unit(teachers.class_embeddings)).sum(1).mean()
  if likeness < LEAST_LIKENESS:
    print(
      f"WARNING: this CLIP's embeddings of the class names are unlike those of {root}/{FILE} "
      f"(mean cosine {likeness:.2f}): they are of another CLIP, from which RKD learns nothing."
    )


def settings_of(args: argparse.Namespace) -> Settings:
  """The settings that the command line asks for; ValueError for those that cannot be."""
  for name in ("batch_size", "records_per_shard"):
    if getattr(args, name) < 1:
      raise ValueError(f"--{name}={getattr(args, name)}: expected at least 1.")

  def given(kind: type) -> dict[str, Any]:
    named = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
    return {name: value for name, value in named.items() if value is not None}

  defaults = PUBLISHED_CROPS if is_published(args.clip) else {}
  return Settings(options=Options(**{**defaults, **given(Options)}), **given(Settings))


def open_writer(
  teachers: Teachers, args: argparse.Namespace, split: str, index: int = 0, count: int = 1
) -> TeacherWriter:
  """The writer of a split's results, for one of several processes."""
  return TeacherWriter(
    args.output,
    split,
    teachers.embedding_dim,
    teachers.metadata,
    args.records_per_shard,
    total=len(teachers.source),
    process_index=index,
    process_count=count,
    class_names=teachers.source.class_names,
    embedding_dtype=args.embedding_dtype,
  )


def write_report(teachers: Teachers, args: argparse.Namespace, split: str) -> None:
  """Prints and writes report.json of a complete split."""
  results = TeacherReader(args.output, split)
  assessed = assess(teachers.source, results)
  report = json.dumps(assessed, indent=1)
  storage.write(epath.Path(args.output) / split / "report.json", report + "\n")
  print(f"{split}: {report}")
  of = f"{assessed['assessed']} images"
  print(told(assessed["box_recall"], split, teachers.metadata, of))


def main(arguments: Sequence[str] | None = None):
  """Command line of the module's docstring."""
  parser = make_parser(__doc__)
  args = parser.parse_args(arguments)
  return_memory_after_compiling()
  print_any_name()
  try:
    complete(args)
    settings = settings_of(args)
    if args.beam is not None:
      _on_beam(settings, args)
      return
    index = jax.process_index() if args.process_index is None else args.process_index
    count = jax.process_count() if args.process_count is None else args.process_count
    with process_pool(args.workers) as executor:
      for split in args.splits.split(","):
        teachers = open_teachers(settings, split)
        writer = open_writer(teachers, args, split, index, count)
        if args.root is not None:
          check_clip(teachers, args.root)
        first = FirstLook(teachers.source, split, teachers.metadata, tqdm.write)
        skip = settings.skip_bad_images
        precompute(*teachers[:4], writer, settings.options, executor, skip, first)
        if writer.complete:
          write_report(teachers, args, split)
        else:
          print(f"{split}: process {index} of {count} is done; the last one reports.")
  except (ValueError, ImportError, OSError) as error:
    parser.exit(1, f"{error}\n")


def _on_beam(settings: Settings, args: argparse.Namespace) -> None:
  """The same results, made by the workers of Apache Beam."""
  # Here, since it needs a package that nothing else does.
  from rkd_jax.records import on_beam

  for split in args.splits.split(","):
    teachers = open_teachers(settings, split)
    count = len(teachers.source)
    writer = open_writer(teachers, args, split)
    ranges = missing_ranges(count, writer.positions, args.records_per_shard)
    on_beam.run(ranges, functools.partial(write_range, settings, split, args.output), args.beam)
    with open_writer(teachers, args, split) as writer:
      if len(writer) != count:
        raise ValueError(f"{split}: {len(writer)} of {count} records are there; run it again.")
    write_report(teachers, args, split)


if __name__ == "__main__":
  main()
