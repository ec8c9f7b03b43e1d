"""The records of a split made on Apache Beam, for data sets that want a cluster.

Every element is a range of positions, its result a part with the rows of its index.  How many
there are is known beforehand, so the borders of shards differ from those of `write_shards`; the
records and their order do not.  Workers get the split and the maker of its records, which hold
paths: images must be where all of them can read, and the folder of the data set where all can
write.  Splits with the objects of whole annotation files are too large to send.
"""

import functools
import itertools
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.naming import ShardedFileTemplate

from rkd_jax.data.making import RecordMaker, Split, without_bad_images
from rkd_jax.records import index as index_lib
from rkd_jax.records import on_beam
from rkd_jax.records.shards import PartWriter, read_parts

# Some 450 MB of ImageNet's images.
RECORDS_PER_SHARD = 4096


def write_part(split: Split, maker: RecordMaker, folder: str, positions: tuple[int, int]) -> int:
  """Writes the records of a range of positions to a part of their own; returns their number."""
  start, stop = positions
  part = PartWriter(folder, f"{start:09d}", uuid.uuid4().hex)
  made = map(maker, split.entries(start, stop))
  for record in without_bad_images(made, maker.skip_bad_images):
    part.write(record.data, record.row)
  part.close()
  return len(part)


def write_split(
  split: Split, maker: RecordMaker, template: ShardedFileTemplate, flags: Sequence[str]
) -> tfds.core.SplitInfo:
  """Makes and stores the records of a split and their index, and waits for it.

  Args:
    split: whose entries are read.
    maker: makes records of them.
    template: of the shards' names.
    flags: those of Beam's own command line.

  Raises:
    ValueError: every image is left out.  Other problems are raised by Beam, not always the first.
  """
  folder = Path(template.data_dir) / f"{template.split}.parts"
  folder.mkdir()
  ends = (*range(0, len(split), RECORDS_PER_SHARD), len(split))
  write = functools.partial(write_part, split, maker, str(folder))
  on_beam.run(list(itertools.pairwise(ends)), write, flags)
  parts = [part for part in read_parts(folder) if part.rows]
  if not parts:
    raise ValueError(
      f"{split.source}: none of its {len(split)} images can be stored: see the warnings."
    )
  for number, part in enumerate(parts):
    part.path.rename(template.sharded_filepath(shard_index=number, num_shards=len(parts)))
  shutil.rmtree(folder)
  rows = (row for part in parts for row in part.rows)
  index_lib.save(template.data_dir, template.split, index_lib.make(rows))
  return tfds.core.SplitInfo(
    name=template.split,
    shard_lengths=[len(part.rows) for part in parts],
    num_bytes=sum(part.num_bytes for part in parts),
    filename_template=template,
  )
