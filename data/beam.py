"""The records of a split made on Apache Beam, for data sets that want a cluster.

Every element is a range of positions, its result one shard and the rows of its index.  How many
there are is known beforehand, so the borders of shards differ from those of `data/shards.py`; the
records and their order do not.  Workers get the split and the maker of its records, which hold
paths: images and teachers' results must be where all of them can read, and the folder of the data
set where all can write.  Splits with the objects of whole annotation files are too large to send.
"""

import itertools
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.naming import ShardedFileTemplate

from rkd_jax.data.making import RecordMaker, Split, without_left_out
from rkd_jax.records import index as index_lib

try:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
  raise ImportError(
    "--beam needs the package apache-beam: pip install apache-beam, here and on the workers."
  ) from error

# Some 450 MB of ImageNet's images.
RECORDS_PER_SHARD = 4096


class WriteShard(beam.DoFn):
  """A range of positions to a shard; yields the number of records."""

  def __init__(self, split: Split, maker: RecordMaker, folder: str):
    self._split, self._maker, self._folder = split, maker, folder

  def process(self, element: tuple[int, int]) -> Iterator[int]:
    """Both files appear when they are complete: Beam may do this twice or at several places."""
    start, stop = element
    shard, index = _files(self._folder, start)
    partial = f".{uuid.uuid4().hex}.partial"
    writer = ArrayRecordWriter(f"{shard}{partial}", "group_size:1")
    rows, size = [], 0
    made = map(self._maker, self._split.entries(start, stop))
    for record in without_left_out(made, self._split.skip_bad_images):
      writer.write(record.data)
      rows.append(record.row)
      size += len(record.data)
    writer.close()
    Path(f"{index}{partial}").write_text(json.dumps({"num_bytes": size, "rows": rows}))
    for path in (shard, index):
      os.replace(f"{path}{partial}", path)
    beam.metrics.Metrics.counter("rkd_jax", "records").inc(len(rows))
    yield len(rows)


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
  parts = Path(template.data_dir) / f"{template.split}.parts"
  parts.mkdir()
  ends = (*range(0, len(split), RECORDS_PER_SHARD), len(split))
  with beam.Pipeline(options=PipelineOptions(list(flags))) as pipeline:
    # Without a shuffle one worker would take all ranges.
    _ = (
      pipeline
      | beam.Create(list(itertools.pairwise(ends)))
      | "Spread" >> beam.Reshuffle()
      | "Write" >> beam.ParDo(WriteShard(split, maker, str(parts)))
    )
  found = [_files(parts, start) for start in ends[:-1]]
  content = [(shard, json.loads(index.read_text())) for shard, index in found]
  content = [(shard, part) for shard, part in content if part["rows"]]
  if not content:
    raise ValueError(
      f"{split.source}: none of its {len(split)} images can be stored: see the warnings."
    )
  for number, (shard, _) in enumerate(content):
    shard.rename(template.sharded_filepath(shard_index=number, num_shards=len(content)))
  shutil.rmtree(parts)
  rows = [row for _, part in content for row in part["rows"]]
  index_lib.save(template.data_dir, template.split, index_lib.make(rows))
  return tfds.core.SplitInfo(
    name=template.split,
    shard_lengths=[len(part["rows"]) for _, part in content],
    num_bytes=sum(part["num_bytes"] for _, part in content),
    filename_template=template,
  )


def _files(folder: str | Path, start: int) -> tuple[Path, Path]:
  """Where the shard of the range that begins at `start` and its rows lie."""
  return Path(folder) / f"{start:09d}.array_record", Path(folder) / f"{start:09d}.json"
