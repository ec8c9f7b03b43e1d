"""Records by one process and by several: the same bytes, counts and first problem."""

import pickle

import official_files
import official_imagenet
import pytest

from rkd_jax.data import builder
from rkd_jax.data import making as records
from rkd_jax.data.coco_ovd.coco_ovd import CocoOvd
from rkd_jax.data.imagenet_lvis.imagenet_lvis import ImagenetLvis
from rkd_jax.records.sources import open_source


@pytest.fixture
def root(tmp_path):
  return official_imagenet.write_sources(tmp_path)


def _imagenet(root, name, **settings):
  return ImagenetLvis(
    data_dir=root / name,
    lvis=root / "lvis",
    imagenet=root / "imagenet",
    wordnet=root / "dict/index.noun",
    **settings,
  )


def _files(folder):
  files = [path for path in folder.rglob("*") if path.suffix != ".json" and path.is_file()]
  return {path.relative_to(folder): path.read_bytes() for path in files}


def test_several_processes_store_the_same_bytes(root, monkeypatch, caplog):
  images = [entry.fields["image_id"] for entry in _imagenet(root, "none").splits["train"].entries()]
  (root / "imagenet/n02121620/n02121620_2.JPEG").write_bytes(b"no image")
  monkeypatch.setattr(records, "WORTH_A_POOL", 5)
  made = {}
  for workers in (1, 2):
    settings = {"skip_bad_images": True, "workers": workers}
    caplog.clear()
    builder.prepare(_imagenet(root, f"by {workers}", **settings))
    assert caplog.text.count("Skipped bad image (1 so far)") == 1
    made[workers] = _files(root / f"by {workers}")
  assert made[1] == made[2]
  source = open_source(root / "by 2", "imagenet_lvis/plain", "train")
  assert [record.image_id for record in source] == images[:2] + images[3:]
  assert source.index.num_labels.tolist() == [1] * 4
  assert source.index.image_ids.tolist() == images[:2] + images[3:]


def test_a_part_of_the_entries(root):
  official_files.write_coco(root / "coco")
  splits = (
    _imagenet(root, "none").splits["train"],
    _imagenet(root, "none", limit=3).splits["train"],
    CocoOvd(data_dir=root, coco=root / "coco").splits["train"],
  )
  for split in splits:
    whole = [entry.load()["image_id"] for entry in split.entries()]
    assert len(whole) == len(split) > 2
    for start in range(len(split) + 1):
      for stop in range(start, len(split) + 2):
        # Entries travel to other processes.
        part = pickle.loads(pickle.dumps(list(split.entries(start, stop))))
        assert [entry.load()["image_id"] for entry in part] == whole[start:stop]
