"""Writing results: a killed run resumes, parts become one data set, mistakes are named."""

import numpy as np
import pytest
from made_results import DIM, assert_holds, results, write

from rkd_jax.files import storage
from rkd_jax.records.index import ResultIndex, load
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_complete_split_is_a_data_set_without_parts(tmp_path):
  write(tmp_path, [7, 2, 5, 11, 3])
  assert _names(tmp_path / "train") == [
    "dataset_info.json",
    "features.json",
    "metadata.json",
    "notes.json",
    "teachers-train.array_record-00000-of-00001",
    "train.index.npz",
  ]


def test_results_come_into_the_order_of_the_source(tmp_path):
  with TeacherWriter(tmp_path, "train", DIM, {}, records_per_shard=2) as writer:
    for position, image_id in ((3, 30), (0, 5), (2, 20), (-1, 99), (1, 10), (-1, 98)):
      writer.write(image_id, results(image_id), position, checksum=image_id + 1)
  index = load(tmp_path / "train", "train", ResultIndex)
  assert index.image_ids.tolist() == [5, 10, 20, 30, 99, 98]
  assert index.positions.tolist() == [0, 1, 2, 3, -1, -1]
  assert index.checksums.tolist() == [6, 11, 21, 31, 100, 99]
  assert index.num_regions.tolist() == [3] * 6 and index.num_pseudo_boxes.tolist() == [2] * 6
  assert_holds(TeacherReader(tmp_path, "train"), [30, 5, 20, 99, 10, 98])


def test_a_run_stopped_by_an_error_resumes_where_it_was(tmp_path):
  with pytest.raises(RuntimeError):
    write(tmp_path, range(10), stop_at=6)
  with pytest.raises(ValueError, match=r"only 6 results.*Start it again"):
    TeacherReader(tmp_path, "train")
  with TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"}) as writer:
    assert [image_id in writer for image_id in (5, 6)] == [True, False]
    for image_id in range(6, 10):
      writer.write(image_id, results(image_id))
  assert_holds(TeacherReader(tmp_path, "train"), range(10))


def test_a_killed_run_loses_only_its_open_part(tmp_path):
  writer = TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"}, records_per_shard=4)
  for image_id in range(6):
    writer.write(image_id, results(image_id))
  assert list((tmp_path / "train").glob("*.partial"))  # never closed, as after kill -9
  resumed = TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"}, records_per_shard=4)
  assert [image_id in resumed for image_id in range(6)] == [True] * 4 + [False] * 2
  assert not list((tmp_path / "train").glob("*.partial"))
  write(tmp_path, range(6))
  assert_holds(TeacherReader(tmp_path, "train"), range(6))


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path):
  folder = tmp_path / "teachers [v2] *"
  with pytest.raises(RuntimeError):
    write(folder, range(10), stop_at=6)
  write(folder, range(10))
  assert_holds(TeacherReader(folder, "train"), range(10))


@pytest.mark.parametrize("step", range(12))
def test_a_kill_at_any_step_of_the_end_changes_nothing(tmp_path, monkeypatch, step):
  """Each file that is moved or removed at the end is one at which the run may be killed."""
  write(tmp_path / "straight", range(6))
  write(tmp_path / "killed", [0])
  calls = iter(range(100))

  class Killed(BaseException):
    pass

  def counted(call):
    def once(*arguments, **settings):
      if next(calls) >= step:
        raise Killed
      return call(*arguments, **settings)

    return once

  with monkeypatch.context() as patch:
    patch.setattr(storage, "put", counted(storage.put))
    for name in ("_make", "_remove"):
      patch.setattr(TeacherWriter, name, counted(getattr(TeacherWriter, name)))
    try:
      write(tmp_path / "killed", range(6))
    except Killed:
      # The complete split of before, the new one, or none.
      try:
        assert len(TeacherReader(tmp_path / "killed", "train")) in (1, 6)
      except ValueError as error:
        assert "Start it again" in str(error)
      # A real kill leaves it.
      (tmp_path / "killed/train/finish.partial").mkdir(exist_ok=True)
  write(tmp_path / "killed", range(6))
  assert _names(tmp_path / "killed/train") == _names(tmp_path / "straight/train")
  for path in (tmp_path / "straight/train").iterdir():
    assert path.read_bytes() == (tmp_path / "killed/train" / path.name).read_bytes(), path


def test_a_complete_split_takes_more_images(tmp_path):
  write(tmp_path, [1, 2])
  writer = TeacherWriter(tmp_path, "train", DIM, {"clip": "abc"}, records_per_shard=1)
  writer.write(3, results(3))
  assert_holds(TeacherReader(tmp_path, "train"), [1, 2])
  write(tmp_path, [1, 2, 3, 4])
  assert_holds(TeacherReader(tmp_path, "train"), [1, 2, 3, 4])
  assert not list((tmp_path / "train").glob("part-*"))


def test_the_last_of_several_processes_completes_the_split(tmp_path):
  both = {"total": 5, "process_count": 2}
  for index, ids in ((0, [1, 2, 3]), (1, [4, 5])):
    with TeacherWriter(tmp_path, "train", DIM, {}, process_index=index, **both) as writer:
      for image_id in ids:
        writer.write(image_id, results(image_id))
    assert writer.complete == (index == 1)
  assert_holds(TeacherReader(tmp_path, "train"), range(1, 6))


def test_of_two_processes_that_see_the_last_part_one_is_faster(tmp_path, monkeypatch):
  both = {"total": 2, "process_count": 2}
  writers = [TeacherWriter(tmp_path, "train", DIM, {}, process_index=i, **both) for i in (0, 1)]
  make = TeacherWriter._make

  def late(self, folder, parts):
    if self is writers[0]:
      writers[1].__exit__(None, None, None)
    make(self, folder, parts)

  for image_id, writer in enumerate(writers):
    writer.write(image_id, results(image_id))
    writer._close_part()
  monkeypatch.setattr(TeacherWriter, "_make", late)
  writers[0].__exit__(None, None, None)
  assert [writer.complete for writer in writers] == [True, True]
  assert_holds(TeacherReader(tmp_path, "train"), [0, 1])


def test_damaged_parts_are_named(tmp_path):
  """What is lost with a part that was removed is made again, beside the others."""
  with pytest.raises(RuntimeError):
    write(tmp_path, range(9), stop_at=8)
  first = tmp_path / "train" / "part-00000.array_record"
  first.write_bytes(first.read_bytes()[:100])
  with pytest.raises(ValueError, match=r"part-00000.* is damaged .*remove .*part-00000\.\*"):
    write(tmp_path, range(9))
  for ending in (".array_record", ".json"):
    first.with_suffix(ending).unlink()
  write(tmp_path, range(9))
  assert_holds(TeacherReader(tmp_path, "train"), range(9))


def test_other_metadata_is_refused(tmp_path):
  write(tmp_path, [1])
  with pytest.raises(
    ValueError, match=r"metadata\.json was made with settings.clip 'abc', now it is 'xyz': "
  ):
    write(tmp_path, [2], {"clip": "xyz"})
  write(tmp_path, [1], {"a": {"b": 1, "c": 2}}, split="nested")
  with pytest.raises(ValueError, match=r"with settings\.a\.c 2, now it is 3: "):
    write(tmp_path, [2], {"a": {"b": 1, "c": 3}}, split="nested")
  for more, message in (
    ({"embedding_dim": 7}, "embedding_dim 6, now it is 7: "),
    ({"embedding_dtype": "float16"}, "embedding_dtype 'float32', now it is 'float16': "),
    ({"class_names": ("cat",)}, r"class_names \[\], now it is \['cat'\]: "),
  ):
    settings = {"embedding_dim": DIM, "metadata": {"clip": "abc"}, **more}
    with pytest.raises(ValueError, match=message):
      TeacherWriter(tmp_path, "train", **settings)


def test_tuples_in_metadata_do_not_prevent_resuming(tmp_path):
  write(tmp_path, [1], {"thresholds": (0.1, 0.2)})
  write(tmp_path, [1, 2], {"thresholds": (0.1, 0.2)})
  assert_holds(TeacherReader(tmp_path, "train"), [1, 2])


def test_half_precision_is_within_its_stated_error(tmp_path):
  with TeacherWriter(tmp_path, "train", DIM, {}, embedding_dtype="float16") as writer:
    for image_id in range(50):
      writer.write(image_id, results(image_id))
  reader = TeacherReader(tmp_path, "train")
  for image_id in range(50):
    found, expected = reader[image_id], results(image_id)
    key = "regions/clip_embeddings"
    assert found[key].dtype == np.float32
    error = np.abs(found[key] - expected[key])
    assert (error <= np.maximum(np.abs(expected[key]) * 2**-11, 3e-8)).all() and error.any()
    for other in set(expected) - {key}:
      np.testing.assert_array_equal(found[other], expected[other])


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("regions/boxes", np.zeros((3, 5)), r"image 4 .*regions/boxes: expected shape \(3, 4\)"),
    ("regions/scores", np.zeros(2), r"regions/scores: expected shape \(3,\)"),
    ("regions/clip_embeddings", np.zeros((3, 5)), r"clip_embeddings: expected shape \(3, 6\)"),
    ("regions/clip_embeddings", np.full((3, DIM), np.nan), "not finite"),
    ("regions/clip_embeddings", np.full((3, DIM), 1e5), "values beyond float16; use float32"),
    ("masks", np.zeros(3), r"unknown \['masks'\]"),
  ],
)
def test_wrong_arrays_are_refused(tmp_path, key, value, message):
  writer = TeacherWriter(tmp_path, "train", DIM, {}, embedding_dtype="float16")
  with pytest.raises(ValueError, match=message):
    writer.write(4, results(4) | {key: value})
  assert 4 not in writer


def test_an_image_is_written_once(tmp_path):
  writer = TeacherWriter(tmp_path, "train", DIM, {})
  writer.write(1, results(1))
  with pytest.raises(ValueError, match=r"image 1 .*already written"):
    writer.write(1, results(1))


def test_impossible_settings_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"process 2 of 2, total=3"):
    TeacherWriter(tmp_path, "train", DIM, {}, total=3, process_index=2, process_count=2)
  with pytest.raises(ValueError, match="embedding_dtype is 'bfloat16'"):
    TeacherWriter(tmp_path, "train", DIM, {}, embedding_dtype="bfloat16")
