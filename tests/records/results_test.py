"""Teacher results: what is written comes back, a killed run resumes, mistakes are named."""

import functools
import json

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from flax import serialization

from rkd_jax.records.result_shards import FIELDS
from rkd_jax.records.results import TeacherReader, TeacherWriter

DIM = 6


def _results(image_id, regions=3, labels=2):
  rng = np.random.default_rng(image_id)
  return {
    "regions/boxes": rng.random((regions, 4)).astype(np.float32),
    "regions/scores": rng.random(regions).astype(np.float32),
    "regions/clip_embeddings": rng.normal(size=(regions, DIM)).astype(np.float32),
    "pseudo_boxes/boxes": rng.random((labels, 4)).astype(np.float32),
    "pseudo_boxes/labels": rng.integers(0, 9, labels),
    "pseudo_boxes/scores": rng.random(labels).astype(np.float32),
  }


def _write(folder, ids, metadata=None, stop_at=None, split="train"):
  with TeacherWriter(
    folder, split, DIM, metadata or {"clip": "abc"}, records_per_shard=4
  ) as writer:
    for image_id in ids:
      if image_id == stop_at:
        raise RuntimeError("stopped")
      if image_id not in writer:
        writer.write(image_id, _results(image_id))


def _assert_holds(reader, ids):
  assert len(reader) == len(ids)
  for image_id in ids:
    record, expected = reader[image_id], _results(image_id)
    assert set(record) == set(FIELDS)
    for key, (dtype, _) in FIELDS.items():
      assert record[key].dtype == dtype
      np.testing.assert_array_equal(record[key], expected[key])


def test_records_come_back_in_any_order(tmp_path):
  ids = [7, 2, 2**31, 5, 11, 3]
  _write(tmp_path, ids)
  reader = TeacherReader(tmp_path, "train", DIM)
  _assert_holds(reader, ids[::-1])
  assert reader.metadata == {"clip": "abc"} and reader.embedding_dim == DIM
  assert 7 in reader and 8 not in reader


def test_no_regions_and_no_labels_are_kept_as_empty_rows(tmp_path):
  with TeacherWriter(tmp_path, "train", DIM, {}) as writer:
    writer.write(1, _results(1, regions=0, labels=0))
  record = TeacherReader(tmp_path, "train")[1]
  assert record["regions/clip_embeddings"].shape == (0, DIM)
  assert record["pseudo_boxes/boxes"].shape == (0, 4)


def test_splits_do_not_mix(tmp_path):
  _write(tmp_path, [1, 2], split="one")
  _write(tmp_path, [3], split="two")
  assert 3 not in TeacherReader(tmp_path, "one")
  _assert_holds(TeacherReader(tmp_path, "two"), [3])


def test_a_run_stopped_by_an_error_resumes_where_it_was(tmp_path):
  with pytest.raises(RuntimeError):
    _write(tmp_path, range(10), stop_at=6)
  with pytest.raises(ValueError, match=r"only 6 records.*Start it again"):
    TeacherReader(tmp_path, "train")
  with TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"}) as writer:
    assert [image_id in writer for image_id in (5, 6)] == [True, False]
    for image_id in range(6, 10):
      writer.write(image_id, _results(image_id))
  _assert_holds(TeacherReader(tmp_path, "train"), range(10))


def test_a_killed_run_loses_only_its_open_shard(tmp_path):
  writer = TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"}, records_per_shard=4)
  for image_id in range(6):
    writer.write(image_id, _results(image_id))
  assert list((tmp_path / "train").glob("*.partial"))  # never closed, as after kill -9
  resumed = TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"}, records_per_shard=4)
  assert [image_id in resumed for image_id in range(6)] == [True] * 4 + [False] * 2
  assert not list((tmp_path / "train").glob("*.partial"))
  _write(tmp_path, range(6))
  _assert_holds(TeacherReader(tmp_path, "train"), range(6))


def test_damaged_shards_and_manifests_are_named(tmp_path):
  """What is lost with a shard that was removed is made again, beside the others."""
  _write(tmp_path, range(6))
  first, *others = sorted((tmp_path / "train").glob("*.arrayrecord"))
  assert others
  first.write_bytes(first.read_bytes()[:100])
  for open_split in (TeacherReader, functools.partial(_write, ids=range(6))):
    with pytest.raises(ValueError, match=r"00000\.arrayrecord is damaged .*: remove it"):
      open_split(tmp_path, split="train")
  first.unlink()
  _write(tmp_path, range(6))
  _assert_holds(TeacherReader(tmp_path, "train"), range(6))
  (tmp_path / "train" / "manifest.json").write_text("[]")
  with pytest.raises(ValueError, match=r"manifest\.json has not format 1: remove"):
    TeacherReader(tmp_path, "train")


def test_other_metadata_is_refused(tmp_path):
  _write(tmp_path, [1])
  with pytest.raises(
    ValueError, match=r"manifest\.json was made with metadata.clip 'abc', now it is 'xyz': "
  ):
    _write(tmp_path, [2], {"clip": "xyz"})
  _write(tmp_path, [1], {"a": {"b": 1, "c": 2}}, split="nested")
  with pytest.raises(ValueError, match=r"with metadata\.a\.c 2, now it is 3: "):
    _write(tmp_path, [2], {"a": {"b": 1, "c": 3}}, split="nested")
  with pytest.raises(ValueError, match="embedding_dim 6, now it is 7: "):
    TeacherWriter(tmp_path, "train", 7, {"clip": "abc"})


def test_tuples_in_metadata_do_not_prevent_resuming(tmp_path):
  _write(tmp_path, [1], {"thresholds": (0.1, 0.2)})
  _write(tmp_path, [1, 2], {"thresholds": (0.1, 0.2)})
  _assert_holds(TeacherReader(tmp_path, "train"), [1, 2])


def test_a_missing_image_names_itself_the_folder_and_the_command(tmp_path):
  _write(tmp_path, [1])
  reader = TeacherReader(tmp_path, "train")
  with pytest.raises(ValueError, match=r"image 42 in .*train .*python -m rkd_jax\.precompute"):
    reader[42]


def test_a_missing_folder_names_itself_and_the_command(tmp_path):
  with pytest.raises(ValueError, match=r"nowhere.*missing.*python -m rkd_jax\.precompute"):
    TeacherReader(tmp_path / "nowhere", "train")


def test_another_embedding_width_is_refused(tmp_path):
  _write(tmp_path, [1])
  with pytest.raises(ValueError, match="6 columns, expected 512"):
    TeacherReader(tmp_path, "train", 512)


def test_a_lost_shard_is_noticed(tmp_path):
  _write(tmp_path, range(6))
  (tmp_path / "train" / "00001.arrayrecord").unlink()
  with pytest.raises(ValueError, match=r"says 6 records.*hold 4"):
    TeacherReader(tmp_path, "train")


@pytest.mark.parametrize("keep", [slice(0), slice(40), slice(80, None)])
def test_a_damaged_shard_names_itself(tmp_path, keep):
  _write(tmp_path, [1])
  shard = tmp_path / "train" / "00000.arrayrecord"
  shard.write_bytes(shard.read_bytes()[keep])
  with pytest.raises(ValueError, match=r"00000\.arrayrecord is damaged or cut off .*precompute"):
    TeacherReader(tmp_path, "train")[1]


def test_a_file_that_is_no_shard_names_itself(tmp_path):
  _write(tmp_path, [1])
  writer = ArrayRecordWriter(str(tmp_path / "train" / "00001.arrayrecord"), "group_size:1")
  writer.write(serialization.msgpack_serialize({"image_id": 2}))
  writer.close()
  with pytest.raises(ValueError, match=r"00001\.arrayrecord is damaged .*remove it"):
    TeacherReader(tmp_path, "train")


@pytest.mark.parametrize("content", ["{", json.dumps({"format": 0})])
def test_a_damaged_manifest_names_itself(tmp_path, content):
  _write(tmp_path, [1])
  (tmp_path / "train" / "manifest.json").write_text(content)
  with pytest.raises(ValueError, match=r"manifest\.json"):
    TeacherReader(tmp_path, "train")


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("regions/boxes", np.zeros((3, 5)), r"image 4 .*regions/boxes: expected shape \(3, 4\)"),
    ("regions/scores", np.zeros(2), r"regions/scores: expected shape \(3,\)"),
    ("regions/clip_embeddings", np.zeros((3, 5)), r"clip_embeddings: expected shape \(3, 6\)"),
    ("regions/clip_embeddings", np.full((3, DIM), np.nan), "not finite"),
    ("masks", np.zeros(3), r"unknown \['masks'\]"),
  ],
)
def test_wrong_arrays_are_refused(tmp_path, key, value, message):
  with TeacherWriter(tmp_path, "train", DIM, {}) as writer:
    with pytest.raises(ValueError, match=message):
      writer.write(4, _results(4) | {key: value})
    assert 4 not in writer


def test_an_image_is_written_once(tmp_path):
  with (
    TeacherWriter(tmp_path, "train", DIM, {}) as writer,
    pytest.raises(ValueError, match=r"image 1 .*already written"),
  ):
    writer.write(1, _results(1))
    writer.write(1, _results(1))
