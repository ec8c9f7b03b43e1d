"""Data on gs:// (a stand-in, `object_store`) is the data of a local disk, and is copied once."""

import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import object_store
import pytest
import tiny_coco
from etils import epath
from made_records import digest

from rkd_jax.data import builder
from rkd_jax.data.coco_json import coco_json
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.files import storage
from rkd_jax.inputs.batching import eval_batches, train_batches
from rkd_jax.inputs.plan import make_plan
from rkd_jax.records.joined import join
from rkd_jax.records.results import FIELDS, TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source
from rkd_jax.runs.metrics import MetricWriter
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.vocabulary.vocabulary import load_vocabulary

DIM = 8
SIZES = {"clip": 2, "train_boxes": 3, "tune": 2}


@pytest.fixture(scope="module")
def store():
  return object_store.install()


@pytest.fixture
def remote(store, tmp_path, monkeypatch):
  """An empty bucket, and an empty cache."""
  monkeypatch.setenv("RKD_JAX_CACHE", str(tmp_path / "cache"))
  store.opened.clear()
  return f"gs://{tmp_path.name}"


def _downloads(store):
  return [path.rpartition("/")[2] for path, mode in store.opened if mode == "r"]


def _folder(place, **files):
  for name, content in files.items():
    (epath.Path(place) / name).write_text(content)
  return place


def _records(data_dir, name, split):
  return [pickle.dumps(record) for record in open_source(data_dir, name, split)]


def test_listings_are_not_remembered(store):
  assert store.storage_options["use_listings_cache"] is False


def test_a_folder_is_copied_once_and_followed_when_it_changes(store, remote):
  place = _folder(f"{remote}/some/folder", a="one", b="two")
  (epath.Path(place) / "below" / "c").write_text("not a file of the folder")
  copy = storage.local_copy(place)
  assert {file.name: file.read_text() for file in copy.iterdir()} == {"a": "one", "b": "two"}
  store.opened.clear()
  assert storage.local_copy(place) == copy
  assert _downloads(store) == []
  _folder(place, a="longer")
  (epath.Path(place) / "b").unlink()
  assert {f.name: f.read_text() for f in storage.local_copy(place).iterdir()} == {"a": "longer"}
  assert _downloads(store) == ["a"]


def test_a_file_of_the_same_length_is_copied_again_if_it_is_younger(remote):
  place = _folder(f"{remote}/folder", a="one")
  os.utime(storage.local_copy(place) / "a", (1, 1))
  _folder(place, a="two")
  assert (storage.local_copy(place) / "a").read_text() == "two"


def test_what_a_killed_copy_left_is_replaced(remote):
  place = _folder(f"{remote}/folder", a="complete")
  copy = storage.work_folder(place)
  (copy / "a").write_text("comp")
  (copy / "b.download").write_text("of a file that is gone")
  (copy / "c.partial").write_text("of another process")
  storage.local_copy(place)
  assert sorted(file.name for file in copy.iterdir()) == ["a", "c.partial"]
  assert (copy / "a").read_text() == "complete"


def test_several_readers_at_once_copy_each_file_once(store, remote):
  place = _folder(f"{remote}/folder", a="one", b="two")
  with ThreadPoolExecutor(4) as pool:
    list(pool.map(storage.local_copy, [place] * 4))
  assert sorted(_downloads(store)) == ["a", "b"]


def test_a_copy_that_breaks_off_leaves_nothing_at_either_end(remote, monkeypatch):
  place = _folder(f"{remote}/folder", a="one")

  def broken(reader, writer, length):
    writer.write(reader.read(1))
    raise ConnectionError("line is down")

  with monkeypatch.context() as patch:
    patch.setattr(shutil, "copyfileobj", broken)
    with pytest.raises(ConnectionError):
      storage.local_copy(place)
    file = storage.work_folder(f"{remote}/new") / "b.partial"
    file.write_text("content")
    with pytest.raises(ConnectionError):
      storage.put(file, f"{remote}/new/b")
  assert not list(storage.work_folder(place).iterdir())
  assert not epath.Path(f"{remote}/new/b").exists()
  assert file.read_text() == "content"
  storage.put(file, f"{remote}/new/b")
  assert epath.Path(f"{remote}/new/b").read_text() == "content"


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_file_is_written_whole_or_not_at_all(remote, tmp_path, kind):
  place = epath.Path(remote if kind == "remote" else tmp_path) / "new folder"
  storage.write(place / "a", "für")
  storage.write(place / "b", b"bytes")
  with pytest.raises(KeyError), storage.writing(place / "a") as file:
    file.write_text("half of ")
    raise KeyError
  assert (place / "a").read_bytes() == "für".encode() and (place / "b").read_bytes() == b"bytes"
  assert sorted(file.name for file in place.iterdir()) == ["a", "b"]
  # What is made for a remote place is the copy of it, too.
  assert sorted(file.name for file in storage.work_folder(place).iterdir()) == ["a", "b"]


def test_problems_are_named(remote, monkeypatch):
  with pytest.raises(FileNotFoundError, match=f"{remote}/nothing: there is no such folder"):
    storage.local_copy(f"{remote}/nothing")
  with pytest.raises(ValueError, match=r"ftp://x: unknown kind of path"):
    storage.path("ftp://x")
  place = _folder(f"{remote}/folder", a="twelve bytes")
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(20, 9, 11))
  with pytest.raises(OSError, match=r"needs 12 bytes more in .*where 11 are free.*RKD_JAX_CACHE"):
    storage.local_copy(place)


def test_a_missing_package_is_named(monkeypatch):
  def missing(self):
    raise ImportError("Please install gcsfs to access Google Storage")

  monkeypatch.setattr(epath.Path("gs://b").__class__, "exists", missing)
  with pytest.raises(ValueError, match=r"gs://b .*gcsfs: pip install gcsfs"):
    storage.path("gs://b")


def test_local_paths_are_used_as_they_are(remote, tmp_path):
  assert storage.local_copy(tmp_path) == storage.work_folder(tmp_path) == tmp_path
  assert storage.build_folder(tmp_path) == str(tmp_path)
  assert storage.origin(tmp_path) == tmp_path
  assert str(storage.origin(storage.build_folder(f"{remote}/a/b"))) == f"{remote}/a/b"


def _results(image_id):
  rng = np.random.default_rng(image_id)
  return {
    "pseudo_boxes/boxes": np.zeros((0, 4), np.float32),
    "pseudo_boxes/labels": np.zeros(0, np.int64),
    "pseudo_boxes/scores": np.zeros(0, np.float32),
    "regions/boxes": rng.random((2, 4)).astype(np.float32),
    "regions/scores": rng.random(2).astype(np.float32),
    "regions/clip_embeddings": rng.normal(size=(2, DIM)).astype(np.float32),
  }


def _teach(folder, split, ids, stop_at=None, **options):
  with TeacherWriter(folder, split, DIM, {}, records_per_shard=2, **options) as writer:
    for position, image_id in enumerate(ids):
      if image_id not in writer:
        if image_id == stop_at:
          raise KeyboardInterrupt
        writer.write(image_id, _results(image_id), position)
  return writer


def _assert_taught(folder, split, ids):
  reader = TeacherReader(folder, split)
  assert len(reader) == len(ids)
  for image_id in ids:
    found, expected = reader[image_id], _results(image_id)
    assert all(found[key].tobytes() == expected[key].tobytes() for key in FIELDS)


def test_data_sets_of_both_stages_are_built_and_read(store, remote, tmp_path):
  local = tmp_path / "local"
  for root in (local, remote):
    builder.prepare(shapes_ovd.ShapesOvd(data_dir=f"{root}/data", sizes=SIZES, workers=1))
    scenes = open_source(f"{root}/data", "shapes_ovd/scenes", "train_boxes")
    ids = [record.image_id for record in scenes]
    _teach(f"{root}/teachers", "train_boxes", ids)
  for split in ("clip", "train_boxes", "tune"):
    expected = _records(local / "data", "shapes_ovd/scenes", split)
    assert _records(f"{remote}/data", "shapes_ovd/scenes", split) == expected
  joined = [
    join(open_source(f"{root}/data", "shapes_ovd/scenes", "train_boxes"), f"{root}/teachers", DIM)
    for root in (local, remote)
  ]
  assert [len(r.region_boxes) for r in joined[0]] == [2] * SIZES["train_boxes"]
  assert [pickle.dumps(r) for r in joined[1]] == [pickle.dumps(r) for r in joined[0]]
  assert not list((tmp_path / "cache" / "builds").glob("**/*array_record*"))
  with pytest.raises(ValueError, match=rf"found: shapes_ovd/scenes.*--data_dir={remote}/data"):
    open_source(f"{remote}/data", "coco_json/plain", "train")


def test_another_machine_copies_the_split_it_reads(store, remote, tmp_path, monkeypatch):
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=remote, sizes=SIZES, workers=1))
  monkeypatch.setenv("RKD_JAX_CACHE", str(tmp_path / "other"))
  store.opened.clear()
  assert len(open_source(remote, "shapes_ovd/scenes", "tune").index) == SIZES["tune"]
  copied = _downloads(store)
  assert "shapes_ovd-tune.array_record-00000-of-00001" in copied
  assert not [name for name in copied if "clip" in name or "train" in name]
  store.opened.clear()
  open_source(remote, "shapes_ovd/scenes", "tune")
  assert _downloads(store) == []


def test_a_data_set_that_is_there_is_kept_or_refused(store, remote):
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=remote, sizes=SIZES, workers=1))
  store.opened.clear()
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=remote, sizes=SIZES, workers=1))
  assert {mode for _, mode in store.opened} == {"r"}
  with pytest.raises(ValueError, match=rf"{remote}/shapes_ovd.*seed is 0, asked for 1"):
    builder.prepare(shapes_ovd.ShapesOvd(data_dir=remote, sizes=SIZES, workers=1, seed=1))


def test_a_build_that_could_not_be_sent_is_sent_later(store, remote, monkeypatch):
  settings = dict(sizes={"tune": 1, "clip": 1}, workers=1)
  copy = storage._copy

  def broken(file, target):
    if "tune" in file.name:
      raise ConnectionError("line is down")
    copy(file, target)

  with monkeypatch.context() as patch:
    patch.setattr(storage, "_copy", broken)
    with pytest.raises(ConnectionError):
      builder.prepare(shapes_ovd.ShapesOvd(data_dir=remote, **settings))
  with pytest.raises(ValueError, match="no data set"):
    open_source(remote, "shapes_ovd/scenes", "tune")
  monkeypatch.setattr(shapes_ovd.ShapesOvd, "download_and_prepare", None)  # not built again
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=remote, **settings))
  assert len(open_source(remote, "shapes_ovd/scenes", "tune")) == 1


def test_training_and_evaluation_read_the_same_batches(remote, tmp_path):
  tiny_coco.build_data(tmp_path)
  files = coco_json.Files(tmp_path / "coco.json", tmp_path / "images")
  built = dict(train=files, validation=files, novel=[tiny_coco.NAMES[-1]])
  builder.prepare(coco_json.CocoJson(data_dir=f"{remote}/data", **built))
  rows, names, template, _ = class_embeddings.load(tmp_path / "class_embeddings.npz")
  for ending in ("npz", "npy"):
    class_embeddings.save(f"{remote}/classes.{ending}", names, template, rows)
  configs = [tiny_coco.get_config(str(tmp_path)) for _ in range(3)]
  for config, ending in zip(configs[1:], ("npz", "npy")):
    config.data.dir, config.class_embeddings = f"{remote}/data", f"{remote}/classes.{ending}"

  def content(config):
    plan = make_plan(config)
    batches = [b for *_, b in train_batches(plan, 0, 2, threads=0)]
    source = open_source(config.data.dir, config.data.name, config.data.eval.split)
    batches += eval_batches(source, plan.specs["eval"], threads=0)
    return digest([batches, load_vocabulary(config, source).embeddings])

  assert len({content(config) for config in configs}) == 1


def test_teachers_go_on_at_another_machine(store, remote, tmp_path, monkeypatch):
  ids = [5, 3, 9, 7, 1]
  with pytest.raises(KeyboardInterrupt):
    _teach(remote, "train", ids, stop_at=7)
  with pytest.raises(ValueError, match=r"train: only 3 results"):
    TeacherReader(remote, "train")
  monkeypatch.setenv("RKD_JAX_CACHE", str(tmp_path / "other"))
  writer = TeacherWriter(remote, "train", DIM, {}, records_per_shard=2)
  assert writer.positions == {0: 5, 1: 3, 2: 9}
  assert _teach(remote, "train", ids).complete
  _assert_taught(remote, "train", ids)
  monkeypatch.setenv("RKD_JAX_CACHE", str(tmp_path / "cache"))
  _assert_taught(remote, "train", ids)
  store.opened.clear()
  _assert_taught(remote, "train", ids)
  assert _downloads(store) == []


def test_teachers_start_anew_where_the_folder_was_removed(remote):
  _teach(remote, "train", [1, 2, 3])
  (epath.Path(remote) / "train").rmtree()
  with pytest.raises(ValueError, match=rf"{remote}/train/metadata\.json is missing"):
    TeacherReader(remote, "train")
  _teach(remote, "train", [4])
  _assert_taught(remote, "train", [4])


def test_teachers_of_several_processes_share_a_folder(remote):
  both = dict(total=5, process_count=2)
  assert not _teach(remote, "train", [1, 2, 3], process_index=0, **both).complete
  assert _teach(remote, "train", [4, 5], process_index=1, **both).complete
  _assert_taught(remote, "train", [1, 2, 3, 4, 5])


def test_metrics_of_a_remote_run_survive_its_machine(remote, tmp_path, monkeypatch):
  with MetricWriter(f"{remote}/run", 0) as writer:
    writer.write(0, "box", {"loss": 2.0})
    writer.flush()
    writer.write(1, "box", {"loss": 1.0})
  monkeypatch.setenv("RKD_JAX_CACHE", str(tmp_path / "other"))
  with MetricWriter(f"{remote}/run", 1) as writer:
    writer.write(1, "box", {"loss": 1.5})
  lines = (epath.Path(remote) / "run" / "metrics.jsonl").read_text()
  assert [json.loads(line)["loss"] for line in lines.splitlines()] == [2.0, 1.5]
  assert list((epath.Path(remote) / "run" / "tensorboard").iterdir())


def test_only_the_names_below_a_folder_are_patterns(tmp_path):
  folder = tmp_path / "data [2024] *"
  for name in ("a1/x.json", "a2/x.json", "a2/y.json", ".a3/x.json", "b/x.json"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("")
  for pattern, names in (
    ("a*/x.json", ["a1/x.json", "a2/x.json"]),
    ("a2/*", ["a2/x.json", "a2/y.json"]),
    ("[ab]/*.json", ["b/x.json"]),
    ("b/x.json/*", []),
    ("c/*", []),
  ):
    found = storage.matching(folder, pattern)
    assert [str(path.relative_to(folder)) for path in found] == names
  assert storage.matching(tmp_path / "missing", "*") == []


def test_a_file_may_have_the_longest_name(tmp_path):
  name = "n" * 251 + ".png"
  storage.write(tmp_path / name, "x")
  assert [file.name for file in tmp_path.iterdir()] == [name]
