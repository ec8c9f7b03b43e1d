"""Records to shards: in order, readable by position, without TFDS' sorting writer."""

import numpy as np
import official_files
import pytest
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.naming import ShardedFileTemplate

from rkd_jax.data import builder
from rkd_jax.data.coco_ovd.coco_ovd import CocoOvd
from rkd_jax.records import shards
from rkd_jax.records.sources import open_source


def _template(folder):
  return ShardedFileTemplate(
    split="train", dataset_name="things", data_dir=folder, filetype_suffix="array_record"
  )


@pytest.mark.parametrize("count, lengths", [(1, [1]), (4, [2, 2]), (7, [2, 2, 2, 1])])
def test_a_shard_is_closed_when_it_is_full(tmp_path, monkeypatch, count, lengths):
  monkeypatch.setattr(shards, "SHARD_BYTES", 100)
  records = (b"x" * 60 for _ in range(count))
  info = shards.write_shards(records, _template(tmp_path))
  assert info.shard_lengths == lengths and info.num_examples == count
  assert info.num_bytes == 60 * count
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    f"things-train.array_record-{number:05}-of-{len(lengths):05}" for number in range(len(lengths))
  ]


def test_a_record_is_stored_before_the_next_is_made(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "SHARD_BYTES", 1)
  stored = []

  def records():
    for i in range(4):
      stored.append(len([path for path in tmp_path.iterdir() if path.stat().st_size > 500]))
      yield np.random.default_rng(i).bytes(1000)

  shards.write_shards(records(), _template(tmp_path))
  assert stored == [0, 1, 2, 3]


def test_no_records_are_an_error(tmp_path):
  with pytest.raises(ValueError, match="Split 'train' has no records"):
    shards.write_shards([], _template(tmp_path))


def test_builders_need_no_tensorflow_for_many_records(tmp_path, monkeypatch):
  # Beyond this size TFDS' writer goes through files that it opens with TensorFlow.
  monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1)
  monkeypatch.setattr(shards, "SHARD_BYTES", 1)
  official_files.write_coco(tmp_path / "coco")
  builder.prepare(CocoOvd(data_dir=tmp_path / "built", coco=tmp_path / "coco"))
  train = open_source(tmp_path / "built", "coco_ovd/plain", "train")
  assert [record.image_id for record in train] == [9, 25, 30, 34]
  assert train[3].image_id == 34 and train[1].image_id == 25
  files = sorted(path.name for path in (tmp_path / "built").rglob("*train.array_record*"))
  assert len(files) == 4 and files[-1].endswith("00003-of-00004")
