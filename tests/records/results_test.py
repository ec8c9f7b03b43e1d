"""Reading results: what was written comes back by image id, and what is damaged is named.

Complete folders of earlier versions are read, others get a sentence.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from flax import serialization
from made_results import DIM, assert_holds, results, write

from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter


def test_records_come_back_in_any_order(tmp_path):
  ids = [7, 2, 2**31, 5, 11, 3]
  write(tmp_path, ids)
  reader = TeacherReader(tmp_path, "train")
  assert_holds(reader, ids[::-1])
  assert reader.metadata == {"clip": "abc"} and reader.embedding_dim == DIM
  assert reader.rows([5, 8, 7, 2**31 + 1]).tolist() == [3, -1, 0, -1]
  assert reader.num_pseudo_boxes.tolist() == [2] * 6


def test_tfds_reads_the_folder(tmp_path):
  write(tmp_path, [4, 1])
  builder = tfds.builder_from_directory(tmp_path / "train")
  first, second = builder.as_data_source("train")
  assert (first["image/id"], second["image/id"]) == (4, 1)
  np.testing.assert_array_equal(first["regions/boxes"], results(4)["regions/boxes"])


def test_many_threads_read_at_once(tmp_path):
  write(tmp_path, range(20))
  reader = TeacherReader(tmp_path, "train")
  order = np.random.default_rng(0).integers(0, 20, 200).tolist()
  with ThreadPoolExecutor(8) as pool:
    for image_id, found in zip(order, pool.map(reader.__getitem__, order), strict=True):
      np.testing.assert_array_equal(found["regions/scores"], results(image_id)["regions/scores"])


def test_no_regions_and_no_labels_are_kept_as_empty_rows(tmp_path):
  with TeacherWriter(tmp_path, "train", DIM, {}) as writer:
    writer.write(1, results(1, regions=0, labels=0), notes={"unreadable": "no image"})
  reader = TeacherReader(tmp_path, "train")
  assert reader[1]["regions/clip_embeddings"].shape == (0, DIM)
  assert reader[1]["pseudo_boxes/boxes"].shape == (0, 4)
  assert reader.notes == {1: {"unreadable": "no image"}}


def test_splits_do_not_mix(tmp_path):
  write(tmp_path, [1, 2], split="one")
  write(tmp_path, [3], split="two")
  assert TeacherReader(tmp_path, "one").rows([3, 2]).tolist() == [-1, 1]
  assert_holds(TeacherReader(tmp_path, "two"), [3])


def test_a_missing_image_names_itself_the_folder_and_the_command(tmp_path):
  write(tmp_path, [1])
  reader = TeacherReader(tmp_path, "train")
  with pytest.raises(ValueError, match=r"image 42 in .*train .*python -m rkd_jax\.precompute"):
    reader[42]


def test_a_missing_folder_names_itself_and_the_command(tmp_path):
  with pytest.raises(ValueError, match=r"nowhere.*missing.*python -m rkd_jax\.precompute"):
    TeacherReader(tmp_path / "nowhere", "train")


@pytest.mark.parametrize(
  "name",
  [
    "teachers-train.array_record-00000-of-00001",
    "train.index.npz",
    "notes.json",
    "features.json",
    "dataset_info.json",
    "metadata.json",
  ],
)
@pytest.mark.parametrize("keep", [None, 0, 40])
def test_what_is_missing_or_damaged_is_named(tmp_path, name, keep):
  write(tmp_path, [1])
  path = tmp_path / "train" / name
  if keep is None:
    path.unlink()
  else:
    os.truncate(path, keep)
  with pytest.raises(ValueError, match=rf"{tmp_path}/train.*(precompute|is no index)"):
    TeacherReader(tmp_path, "train")[1]


def test_a_result_of_another_image_is_noticed(tmp_path):
  write(tmp_path, [1, 2])
  write(tmp_path / "other", [3, 4])
  (shard,) = (tmp_path / "other/train").glob("*array_record*")
  shard.rename(tmp_path / "train" / shard.name)
  with pytest.raises(ValueError, match=r"Image 1 in .*train: the result there is of image 3"):
    TeacherReader(tmp_path, "train")[1]


def test_metadata_says_what_made_the_results(tmp_path):
  with TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"}, class_names=("a", "b")) as writer:
    writer.write(1, results(1))
  content = json.loads((tmp_path / "train/metadata.json").read_text())
  assert content == {
    "settings": {"clip": "abc"},
    "class_names": ["a", "b"],
    "embedding_dim": DIM,
    "embedding_dtype": "float32",
  }
  assert TeacherReader(tmp_path, "train").class_names == ("a", "b")


def _write_legacy(folder, shards, complete=True, positions=True):
  """What earlier versions wrote: a manifest, and shards that end with a record about the others."""
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
def test_a_complete_folder_of_an_earlier_version_is_read(tmp_path, positions):
  _write_legacy(tmp_path, [[7, 3], [2**31, 5]], positions=positions)
  reader = TeacherReader(tmp_path, "train")
  assert_holds(reader, [5, 7, 3, 2**31])
  assert reader.metadata == {"clip": "abc"} and reader.embedding_dim == DIM
  assert reader.notes == {3: {"unreadable": "x"}} and reader.class_names == ()
  assert reader.num_pseudo_boxes.tolist() == [2] * 4
  assert (reader.checksums == -1).all()


def test_what_was_not_finished_cannot_be_carried_on(tmp_path):
  _write_legacy(tmp_path, [[7, 3]], complete=False)
  with pytest.raises(ValueError, match="earlier version did not finish: go on with that version"):
    TeacherReader(tmp_path, "train")


@pytest.mark.parametrize("complete", [True, False])
def test_nothing_is_written_beside_results_of_an_earlier_version(tmp_path, complete):
  _write_legacy(tmp_path, [[7, 3]], complete=complete)
  with pytest.raises(ValueError, match=r"results of an earlier version.*another --output"):
    TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"})


@pytest.mark.parametrize("keep", [slice(0), slice(40), slice(80, None)])
def test_a_damaged_shard_of_an_earlier_version_names_itself(tmp_path, keep):
  shard = _write_legacy(tmp_path, [[1]]) / "00000.arrayrecord"
  shard.write_bytes(shard.read_bytes()[keep])
  with pytest.raises(ValueError, match=r"00000\.arrayrecord is damaged or cut off .*precompute"):
    TeacherReader(tmp_path, "train")[1]


def test_lost_shards_and_damaged_manifests_are_named(tmp_path):
  split = _write_legacy(tmp_path, [[1, 2], [3]])
  (split / "00001.arrayrecord").unlink()
  with pytest.raises(ValueError, match=r"says 3 records.*hold 2"):
    TeacherReader(tmp_path, "train")
  (split / "manifest.json").write_text("{")
  with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
    TeacherReader(tmp_path, "train")
