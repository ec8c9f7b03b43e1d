"""What the builders share: records of splits, the index beside them, the command line.

A builder (`data/<name>/<name>.py`) says which files make its splits and which boxes and labels
are kept; the rest is here.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_builder

from rkd_jax.data.making import Record, RecordMaker, Split, records, write_on_beam
from rkd_jax.files import storage
from rkd_jax.files.json_checks import differences
from rkd_jax.files.terminal import print_any_name
from rkd_jax.records import decoding, schema, shards
from rkd_jax.records import index as index_lib
from rkd_jax.records.class_names import check_split

_EPILOG = """\
Everything is checked before it is stored.  What frozen teachers say of a split
(`rkd_jax.precompute`) stays in a folder of its own, which training joins when it reads
(`config.data.teachers`).
"""
# TFDS writes it last.
_MARK = "dataset_info.json"


class RecordBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
  """Base of the builders: records of some splits, and their indices beside the shards."""

  SPLITS_WITH_ALL_BOXES = ("validation",)
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="plain", description="Images, boxes, captions and labels."),
  ]

  def __init__(
    self,
    *,
    splits: Mapping[str, Split],
    settings: Mapping[str, Any],
    base: Sequence[str] = (),
    novel: Sequence[str] = (),
    frequencies: Sequence[str] | None = None,
    ancestors: Sequence[Iterable[int]] | None = None,
    totals: Sequence[str] = (),
    limit: int | None = None,
    skip_bad_images: bool = False,
    max_pixels: int = decoding.MAX_PIXELS,
    workers: int | None = None,
    beam: Sequence[str] | None = None,
    **kwargs: Any,
  ):
    """Takes splits that have been read; images are read by `prepare`.

    Args:
      splits: by name, of the same classes.
      settings: what the splits were made from, as JSON values.
      base: classes to train on.
      novel: classes that are only evaluated.
      frequencies: LVIS' 'r', 'c' or 'f' of each class.
      ancestors: the classes above each class, where they form a hierarchy.
      totals: lines of the description, see `compared`.
      limit: only the first so many images of each split.
      skip_bad_images, max_pixels, workers: see `making.RecordMaker` and `making.records`.
      beam: flags of Apache Beam, which then makes the records.
      **kwargs: those of every TFDS builder.  What is for a remote `data_dir` is built in a local
        folder; `prepare` takes it there.

    Raises:
      ValueError: a limit of less than one image, or `base` or `novel` names what is no class.
    """
    if limit is not None and limit < 1:
      raise ValueError(f"limit is {limit}, expected at least 1 image.")
    # Files of boxes alone must not look like objects whose masks are empty.
    self._polygons = any(split.has_polygons for split in splits.values())
    self.splits = {
      name: split if limit is None else split.first(limit) for name, split in splits.items()
    }
    self._skip_bad_images, self._max_pixels = skip_bad_images, max_pixels
    self._workers, self._beam = workers, beam
    self._classes = base, novel, frequencies, ancestors
    self._totals = totals
    # What decides the content of the records, as JSON values.
    self.settings = {**settings, "limit": limit, "skip_bad_images": skip_bad_images}
    if max_pixels != decoding.MAX_PIXELS:
      self.settings["max_pixels"] = max_pixels
    kwargs["data_dir"] = storage.build_folder(kwargs["data_dir"])
    super().__init__(file_format="array_record", **kwargs)

  def describe(self) -> str:
    """What the splits hold, and how that compares to the official files, for people."""
    of_splits = (split.describe(name) for name, split in self.splits.items())
    return "\n".join(itertools.chain(self._totals, *of_splits))

  def check(self):
    """Goes through all records without storing them; raises ValueError for the first problem."""
    for name in self.splits:
      for _ in self._records(name):
        pass

  def _info(self) -> tfds.core.DatasetInfo:
    first = next(iter(self.splits.values()))
    base, novel, frequencies, ancestors = self._classes
    check_split(first.class_names, base, novel)
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=schema.features(first.class_names, self._polygons, first.federated),
      metadata=tfds.core.MetadataDict(
        class_names=first.class_names,
        base=base,
        novel=novel,
        splits_with_all_boxes=self.SPLITS_WITH_ALL_BOXES,
        settings=self.settings,
        image_counts=self.splits["train"].image_counts() if "train" in self.splits else None,
        frequencies=frequencies,
        ancestors=None if ancestors is None else [sorted(above) for above in ancestors],
      ),
      disable_shuffling=True,
    )

  def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
    infos = []
    for name, split in self.splits.items():
      template = self._get_filename_template(name)
      if self._beam is None:
        infos.append(shards.write_shards(self._indexed_records(name), template))
      else:
        infos.append(write_on_beam(split, self._maker(), template, self._beam))
    self.info.set_splits(tfds.core.splits.SplitDict(infos))

  def _records(self, split: str) -> Iterator[Record]:
    return records(self.splits[split], self._maker(), self._workers)

  def _maker(self) -> RecordMaker:
    return RecordMaker(self.info.features, self._skip_bad_images, self._max_pixels)

  def _indexed_records(self, split: str) -> Iterator[bytes]:
    """The records; once all have been taken, their index lies in the folder being written."""
    rows = []
    for record in self._records(split):
      rows.append(record.row)
      yield record.data
    index_lib.save(self.data_dir, split, index_lib.make(rows))


def compared(counted: Mapping[str, Mapping[str, tuple[int, int]]]) -> list[str]:
  """Lines that say which file has other totals than the official one.

  `counted` has for each file {what: (number as read, official number)}.
  """
  lines = []
  for file, totals in counted.items():
    same = ", ".join(f"{found:,} {what}" for what, (found, _) in totals.items())
    differing = ", ".join(
      f"{found:,} {what} (official: {official:,})"
      for what, (found, official) in totals.items()
      if found != official
    )
    not_official = f"{file} is not the official file, or cut: {differing}"
    lines.append(not_official if differing else f"{file} has the official totals: {same}")
  return lines


def checksum(path: str | os.PathLike) -> str:
  """A short checksum of a file, for the settings."""
  with Path(path).open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def prepare(builder: RecordBuilder) -> RecordBuilder:
  """Stores the records, unless they are there with the same settings.

  Raises:
    ValueError: a problem with an image, or the records are there with other settings.
    OSError: a remote data_dir cannot be written.
  """
  target = place(builder)
  if not _is_stored(target, builder.settings):
    if not _is_stored(epath.Path(builder.data_dir), builder.settings):
      # TFDS would draw a bar per split over ours, and announce a download that there is not.
      tfds.disable_progress_bar()
      with contextlib.redirect_stdout(None):
        builder.download_and_prepare()
    storage.publish(builder.data_dir, target, last=_MARK)
  return builder


def place(builder: RecordBuilder) -> epath.Path:
  """Where `prepare` stores the records, perhaps remote."""
  return storage.path(storage.origin(builder.data_dir))


def _is_stored(folder: epath.Path, settings: dict[str, Any]) -> bool:
  """Whether the data set is complete; ValueError if it was built with other settings."""
  if not (folder / _MARK).exists():
    return False
  found = json.loads((folder / "metadata.json").read_text())["settings"]
  # Earlier versions stored it for every data set; of those without results it changed no record.
  found.pop("embedding_dim", None)
  # What is off need not be there.
  changes = differences(found, settings).items()
  if different := {k: (old, new) for k, (old, new) in changes if (old or None) != (new or None)}:
    raise ValueError(
      f"{folder} was built from other files or settings: "
      + "; ".join(f"{k} is {old!r}, asked for {new!r}" for k, (old, new) in different.items())
      + ". Remove that folder, ask for the same, or give another data_dir."
    )
  return True


def argument_parser(description: str, beam: bool = False) -> argparse.ArgumentParser:
  """A command line with the flags that all builders have.

  With `beam` also --beam, for those whose splits are small enough to be sent to Beam's workers.
  """
  raw = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=description, epilog=_EPILOG, formatter_class=raw)
  where = "root folder of built data sets, perhaps gs://..."
  parser.add_argument("--data_dir", required=True, help=where)
  add_flags(parser)
  silent = argparse.SUPPRESS
  parser.add_argument("--config", "--teachers", type=_gone, default=silent, help=silent)
  if beam:
    text = "make the records on Apache Beam, as '--runner=...'"
    parser.add_argument("--beam", type=shlex.split, metavar="FLAGS", help=text)
  return parser


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags that say which images are stored, and how; --dry_run is of `build`."""
  parser.add_argument("--limit", type=int, help="only the first so many images of each split")
  skip = "leave out images that cannot be decoded, and warn"
  parser.add_argument("--skip_bad_images", action="store_true", help=skip)
  pixels = f"larger images are bad ones; default {decoding.MAX_PIXELS}"
  parser.add_argument("--max_pixels", type=int, default=decoding.MAX_PIXELS, help=pixels)
  parser.add_argument("--workers", type=int, help="processes that decode, by default one per CPU")
  parser.add_argument("--dry_run", action="store_true", help="check everything, store nothing")


def _gone(value: str) -> None:
  """Refuses the flags of earlier versions, which built the records a second time."""
  raise argparse.ArgumentTypeError(
    "records are built once, without the teachers' results. Leave the flag out; train with "
    "--config.data.teachers=FOLDER, the --output of `python -m rkd_jax.precompute`."
  )


def run(
  parser: argparse.ArgumentParser,
  make: Callable[..., RecordBuilder],
  arguments: Sequence[str] | None = None,
) -> None:
  """Builds or checks, prints what there is, and ends with a message at the first problem.

  `make` gets the flags, whose names are those of the builder's arguments; `arguments` are by
  default those of the process.
  """
  settings = vars(parser.parse_args(arguments))
  print_any_name()
  dry_run = settings.pop("dry_run")
  try:
    build(make(**settings), dry_run)
  except (ValueError, ImportError, OSError) as error:
    parser.exit(1, f"{error}\n")


def build(builder: RecordBuilder, dry_run: bool = False) -> None:
  """Prints what there is, and stores it, or with `dry_run` goes through all of it alone.

  Raises what `prepare` does.
  """
  print(builder.describe())
  if dry_run:
    builder.check()
    print("No problem found; nothing was stored.")
  else:
    prepare(builder)
    print(place(builder))
