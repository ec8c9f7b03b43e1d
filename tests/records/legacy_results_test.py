"""Folders of earlier versions: complete ones are read, others get a sentence."""

import json

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from flax import serialization
from made_results import DIM, assert_holds, results

from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter


def _write(folder, shards, complete=True, positions=True):
  """What such a version wrote: a manifest, and shards that end with a record about the others."""
  split = folder / "train"
  split.mkdir(parents=True)
  for number, ids in enumerate(shards):
    writer = ArrayRecordWriter(str(split / f"{number:05d}.arrayrecord"), "group_size:1")
    for image_id in ids:
      writer.write(serialization.msgpack_serialize({"image_id": image_id, **results(image_id)}))
    last = {"image_ids": np.array(ids, np.int64), "notes": json.dumps({"3": {"unreadable": "x"}})}
    if positions:
      last["positions"] = np.arange(len(ids))
    writer.write(serialization.msgpack_serialize(last))
    writer.close()
  count = sum(map(len, shards))
  manifest = {"format": 1, "metadata": {"clip": "abc"}, "embedding_dim": DIM}
  manifest |= {"count": count, "complete": complete}
  (split / "manifest.json").write_text(json.dumps(manifest))
  return split


@pytest.mark.parametrize("positions", [True, False])
def test_a_complete_folder_is_read(tmp_path, positions):
  _write(tmp_path, [[7, 3], [2**31, 5]], positions=positions)
  reader = TeacherReader(tmp_path, "train")
  assert_holds(reader, [5, 7, 3, 2**31])
  assert reader.metadata == {"clip": "abc"} and reader.embedding_dim == DIM
  assert reader.notes == {3: {"unreadable": "x"}} and reader.class_names == ()
  assert reader.num_pseudo_boxes.tolist() == [2] * 4
  assert (reader.checksums == -1).all()


def test_what_was_not_finished_cannot_be_carried_on(tmp_path):
  _write(tmp_path, [[7, 3]], complete=False)
  with pytest.raises(ValueError, match="earlier version did not finish: go on with that version"):
    TeacherReader(tmp_path, "train")


@pytest.mark.parametrize("complete", [True, False])
def test_nothing_is_written_beside_them(tmp_path, complete):
  _write(tmp_path, [[7, 3]], complete=complete)
  with pytest.raises(ValueError, match=r"results of an earlier version.*another --output"):
    TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"})


@pytest.mark.parametrize("keep", [slice(0), slice(40), slice(80, None)])
def test_a_damaged_shard_names_itself(tmp_path, keep):
  shard = _write(tmp_path, [[1]]) / "00000.arrayrecord"
  shard.write_bytes(shard.read_bytes()[keep])
  with pytest.raises(ValueError, match=r"00000\.arrayrecord is damaged or cut off .*precompute"):
    TeacherReader(tmp_path, "train")[1]


def test_lost_shards_and_damaged_manifests_are_named(tmp_path):
  split = _write(tmp_path, [[1, 2], [3]])
  (split / "00001.arrayrecord").unlink()
  with pytest.raises(ValueError, match=r"says 3 records.*hold 2"):
    TeacherReader(tmp_path, "train")
  (split / "manifest.json").write_text("{")
  with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
    TeacherReader(tmp_path, "train")
