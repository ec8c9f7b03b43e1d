"""Records by one process and by several: the same bytes, counts and first problem."""

import pickle

import numpy as np
import official_files
import official_imagenet
import pytest

from rkd_jax.data import builder
from rkd_jax.data import making as records
from rkd_jax.data.coco_ovd.coco_ovd import CocoOvd
from rkd_jax.data.imagenet_lvis.imagenet_lvis import ImagenetLvis
from rkd_jax.records.result_shards import FIELDS
from rkd_jax.records.results import TeacherReader, TeacherWriter
from rkd_jax.records.sources import open_source


@pytest.fixture
def root(tmp_path):
  return official_imagenet.write_sources(tmp_path)


def _imagenet(root, name, config="plain", **settings):
  return ImagenetLvis(
    data_dir=root / name,
    config=config,
    lvis=root / "lvis",
    imagenet=root / "imagenet",
    wordnet=root / "dict/index.noun",
    embedding_dim=3,
    **settings,
  )


def _write_teachers(root, image_ids):
  rng = np.random.default_rng(0)
  shapes = {"boxes": (2, 4), "clip_embeddings": (2, 3), "scores": (2,), "labels": (2,)}
  with TeacherWriter(root / "teachers", "train", 3, {}) as writer:
    for image_id in image_ids:
      writer.write(image_id, {k: rng.random(shapes[k.partition("/")[2]]) for k in FIELDS})


def _files(folder):
  files = [path for path in folder.rglob("*") if path.suffix != ".json" and path.is_file()]
  return {path.relative_to(folder): path.read_bytes() for path in files}


def test_several_processes_store_the_same_bytes(root, monkeypatch, caplog):
  images = [entry.image.image_id for entry in _imagenet(root, "none").splits["train"].entries()]
  _write_teachers(root, images)
  (root / "imagenet/n02121620/n02121620_2.JPEG").write_bytes(b"no image")
  monkeypatch.setattr(records, "WORTH_A_POOL", 5)
  made = {}
  for workers in (1, 2):
    settings = {"teachers": root / "teachers", "skip_bad_images": True, "workers": workers}
    caplog.clear()
    builder.prepare(_imagenet(root, f"by {workers}", "rkd", **settings))
    assert caplog.text.count("Skipped bad image (1 so far)") == 1
    made[workers] = _files(root / f"by {workers}")
  assert made[1] == made[2]
  source = open_source(root / "by 2", "imagenet_lvis/rkd", "train")
  assert [record.image_id for record in source] == images[:2] + images[3:]
  assert [len(record.region_boxes) for record in source] == [2] * 4
  assert source.index.num_labels.tolist() == [1] * 4


def test_a_part_of_the_entries(root):
  official_files.write_coco(root / "coco")
  splits = (
    _imagenet(root, "none").splits["train"],
    _imagenet(root, "none", limit=3).splits["train"],
    CocoOvd(data_dir=root, config="plain", coco=root / "coco").splits["train"],
  )
  for split in splits:
    whole = [entry.load()["image_id"] for entry in split.entries()]
    assert len(whole) == len(split) > 2
    for start in range(len(split) + 1):
      for stop in range(start, len(split) + 2):
        # Entries travel to other processes.
        part = pickle.loads(pickle.dumps(list(split.entries(start, stop))))
        assert [entry.load()["image_id"] for entry in part] == whole[start:stop]


def test_results_of_teachers_travel_as_their_folder(tmp_path):
  _write_teachers(tmp_path, [7, 8])
  reader = TeacherReader(tmp_path / "teachers", "train")
  again = pickle.loads(pickle.dumps(reader))
  assert len(again) == 2 and again.embedding_dim == 3
  for key in FIELDS:
    np.testing.assert_array_equal(again[8][key], reader[8][key])
