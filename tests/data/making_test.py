"""Records by one process, several or Beam: the same bytes, counts and first problem."""

import importlib.util
import pickle
import sys

import numpy as np
import official_files
import official_imagenet
import pytest

import rkd_jax.records
from rkd_jax.data import builder
from rkd_jax.data import making as records
from rkd_jax.data.coco_ovd.coco_ovd import CocoOvd
from rkd_jax.data.imagenet_lvis import imagenet_lvis
from rkd_jax.data.imagenet_lvis.imagenet_lvis import ImagenetLvis
from rkd_jax.records.sources import open_source

needs_beam = pytest.mark.skipif(
  not importlib.util.find_spec("apache_beam"), reason="needs the extra 'beam'"
)


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


def _run(root, monkeypatch, name, *flags):
  arguments = {
    "data_dir": root / name,
    "lvis": root / "lvis",
    "imagenet": root / "imagenet",
    "wordnet": root / "dict/index.noun",
  }
  command = ["imagenet_lvis", *(f"--{key}={value}" for key, value in arguments.items()), *flags]
  monkeypatch.setattr(sys, "argv", command)
  imagenet_lvis.main()
  return open_source(root / name, "imagenet_lvis/plain", "train")


@needs_beam
@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_the_direct_runner_stores_the_records_of_the_command(root, monkeypatch, mode):
  # Of ranges 0-1, 2-3 and 4 the second has nothing but bad images.
  for number in (2, 10):
    (root / f"imagenet/n02121620/n02121620_{number}.JPEG").write_bytes(b"no image")
  monkeypatch.setattr(records, "RECORDS_PER_SHARD", 2)
  flags = f"--runner=DirectRunner --direct_num_workers=2 --direct_running_mode={mode}"
  alone = _run(root, monkeypatch, "alone", "--skip_bad_images")
  made = _run(root, monkeypatch, "beam", "--skip_bad_images", f"--beam={flags}")
  assert [record.image_id for record in made] == [
    21391990000007,
    21391990000014,
    21216200000111,
  ]
  for one, other in zip(alone, made, strict=True):
    assert (one.image_id, one.image) == (other.image_id, other.image)
    np.testing.assert_array_equal(one.labels, other.labels)
  (expected,), (index,) = ((root / name).rglob("*.npz") for name in ("alone", "beam"))
  assert index.read_bytes() == expected.read_bytes()
  files = sorted(path.name for path in index.parent.iterdir() if "array_record" in path.name)
  assert files == [f"imagenet_lvis-train.array_record-0000{i}-of-00002" for i in (0, 1)]
  assert not list(index.parent.glob("*parts*"))
  (expected,), (info,) = ((root / name).rglob("dataset_info.json") for name in ("alone", "beam"))
  sizes = [line for line in expected.read_text().splitlines() if "numBytes" in line]
  assert sizes and sizes[0] in info.read_text().splitlines()


@needs_beam
def test_nothing_but_bad_images_is_an_error(root, monkeypatch, capsys):
  for number in (2, 10):
    (root / f"imagenet/n02121620/n02121620_{number}.JPEG").write_bytes(b"no image")
  (root / "imagenet/n02139199.tar").unlink()
  with pytest.raises(SystemExit):
    _run(root, monkeypatch, "beam", "--skip_bad_images", "--beam=", "--limit=2")
  assert "none of its 2 images can be stored" in capsys.readouterr().err


def test_without_beam_the_command_says_what_to_install(root, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  monkeypatch.delitem(sys.modules, "rkd_jax.records.on_beam", raising=False)
  monkeypatch.delattr(rkd_jax.records, "on_beam", raising=False)
  with pytest.raises(SystemExit):
    _run(root, monkeypatch, "beam", "--beam=--runner=DirectRunner")
  assert "pip install apache-beam" in capsys.readouterr().err
