"""Writes records to ArrayRecord shards in their order, one at a time.

TFDS' own writer sorts by key: all records of a split go through memory, and beyond 1 GB through
files that need TensorFlow.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.naming import ShardedFileTemplate

# As few files as readers can hold open, but small enough to move around.
_SHARD_BYTES = 512 << 20


def write_shards(
  records: Iterable[bytes],
  template: ShardedFileTemplate,
  shard_bytes: int = _SHARD_BYTES,
) -> tfds.core.SplitInfo:
  """Stores the records of a split; memory holds one of them.

  Args:
    records: at least one.
    template: of the shards' names; these know their number, so they are given at the end.
    shard_bytes: a shard is closed when so many bytes of records are in it.

  Raises:
    ValueError: there is no record.
  """
  writer, paths, lengths = None, [], []
  written = total = 0
  for record in records:
    if writer is None:
      paths.append(Path(template.data_dir) / f"{template.split}-{len(paths)}.partial")
      writer = ArrayRecordWriter(os.fspath(paths[-1]), "group_size:1")
      lengths.append(0)
      written = 0
    writer.write(record)
    lengths[-1] += 1
    written += len(record)
    total += len(record)
    if written >= shard_bytes:
      writer.close()
      writer = None
  if not paths:
    raise ValueError(f"Split {template.split!r} has no records: there is nothing to build.")
  if writer is not None:
    writer.close()
  for number, path in enumerate(paths):
    path.rename(template.sharded_filepath(shard_index=number, num_shards=len(paths)))
  return tfds.core.SplitInfo(
    name=template.split, shard_lengths=lengths, num_bytes=total, filename_template=template
  )
