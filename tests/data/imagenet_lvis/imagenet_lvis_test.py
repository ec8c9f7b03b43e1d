"""ImageNet-LVIS from folders, archives and WordNet, through the offline step to image batches."""

import json
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import official_files
import official_imagenet
import pytest

from rkd_jax.data import builder
from rkd_jax.data.imagenet_lvis import imagenet_lvis
from rkd_jax.inputs import examples
from rkd_jax.records.joined import join
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import decode_image, open_source, select
from rkd_jax.teachers.detector import StoredProposals
from rkd_jax.teachers.images import Options
from rkd_jax.teachers.pipeline import describe, precompute
from rkd_jax.teachers.region_growing import RegionGrowing

DIM = 3
IDS = [21391990000007, 21391990000014, 21216200000002, 21216200000010, 21216200000111]


@pytest.fixture
def root(tmp_path):
  return official_imagenet.write_sources(tmp_path)


def _build(root, **settings):
  made = imagenet_lvis.ImagenetLvis(
    data_dir=root / "built",
    lvis=root / "lvis",
    imagenet=root / "imagenet",
    wordnet=root / "dict/index.noun",
    **settings,
  )
  return builder.prepare(made)


def _open(root):
  return open_source(root / "built", "imagenet_lvis/plain", "train")


def test_images_have_the_class_of_their_synset_and_no_boxes(root):
  _build(root)
  source = _open(root)
  assert source.class_names == ("aerosol_can", "bat_(animal)", "cat", "zoo")
  assert (source.base, source.novel) == (("aerosol_can", "cat", "zoo"), ("bat_(animal)",))
  assert source.frequencies == ("c", "r", "f", "f") and source.image_counts is None
  assert not source.has_all_boxes
  assert [record.image_id for record in source] == IDS
  assert [record.labels.tolist() for record in source] == [[1]] * 2 + [[2]] * 3
  assert [len(record.boxes) for record in source] == [0] * 5
  assert source[0].filename == "n02139199/n02139199_7.JPEG"
  for record in source:  # CMYK, grey and PNG as well
    assert decode_image(record).shape == (official_files.HEIGHT, official_files.WIDTH, 3)
  assert source[4].image.startswith(b"\x89PNG")
  assert source.index.num_labels.tolist() == [1] * 5 and len(source.index.classes) == 0


def test_folders_and_archives_give_the_same_records(root):
  _build(root)
  expected = [(record.image_id, record.image) for record in _open(root)]
  with tarfile.open(root / "imagenet/n02139199.tar") as archive:
    archive.extractall(root / "imagenet/n02139199", filter="data")
  (root / "imagenet/n02139199.tar").unlink()
  with tarfile.open(root / "imagenet/n02121620.tar", "w") as archive:
    for number in (2, 10, 111):
      file = root / f"imagenet/n02121620/n02121620_{number}.JPEG"
      archive.add(file, file.name)
      file.unlink()
  (root / "imagenet/n02121620").rmdir()
  (root / "built").rename(root / "before")
  _build(root)
  assert [(record.image_id, record.image) for record in _open(root)] == expected


def _run(root, monkeypatch, *flags):
  arguments = {
    "data_dir": root / "built",
    "lvis": root / "lvis",
    "imagenet": root / "imagenet",
    "wordnet": root / "dict/index.noun",
  }
  command = ["imagenet_lvis", *(f"--{key}={value}" for key, value in arguments.items()), *flags]
  monkeypatch.setattr(sys, "argv", command)
  imagenet_lvis.main()


def test_a_dry_run_counts_what_has_images_and_what_has_not(root, monkeypatch, capsys):
  _run(root, monkeypatch, "--dry_run", "--limit=4")
  out = capsys.readouterr().out
  assert "2 synsets with images (official: 997)" in out
  assert "1 classes whose synset is not in WordNet: aerosol.n.02" in out
  assert "1 classes whose synset is not in ImageNet: menagerie.n.02" in out
  assert "train: 5 images of 2 synsets and 2 classes; of them the first 4" in out
  assert not (root / "built").exists()


def test_empty_synsets_are_named(root):
  (root / "imagenet/n03745146").mkdir()
  built = _build(root)
  assert "1 synsets without images: ['n03745146']" in built.describe()
  assert "2 synsets with images (official: 997)" in built.describe()


def test_only_the_first_images(root):
  _build(root, limit=3)
  assert [record.image_id for record in _open(root)] == IDS[:3]


def test_classes_of_one_synset_share_its_images(root):
  path = root / "lvis/lvis_v1_val.json"
  content = json.loads(path.read_text())
  content["categories"][3]["synset"] = "true_cat.n.01"
  path.write_text(json.dumps(content))
  _build(root)
  assert [record.labels.tolist() for record in _open(root)] == [[1]] * 2 + [[2, 3]] * 3


def test_a_bad_image_is_an_error_or_left_out_with_a_count(root, monkeypatch, capsys, caplog):
  (root / "imagenet/n02121620/n02121620_10.JPEG").write_bytes(b"no image")
  with pytest.raises(SystemExit):
    _run(root, monkeypatch)
  error = capsys.readouterr().err
  assert "n02121620/n02121620_10.JPEG (image id 21216200000010) of" in error
  assert "--skip_bad_images" in error
  _run(root, monkeypatch, "--skip_bad_images")
  assert "Skipped bad image (1 so far)" in caplog.text
  assert [record.image_id for record in _open(root)] == IDS[:3] + IDS[4:]


def test_an_archive_that_is_cut_off_stops_before_anything_is_stored(root, monkeypatch, capsys):
  path = root / "imagenet/n02139199.tar"
  path.write_bytes(path.read_bytes()[:2000])
  with pytest.raises(SystemExit):
    _run(root, monkeypatch)
  assert "n02139199.tar is damaged, cut off" in capsys.readouterr().err
  assert not (root / "built").exists()


def test_categories_need_their_synsets(root):
  path = root / "lvis/lvis_v1_val.json"
  content = json.loads(path.read_text())
  del content["categories"][1]["synset"]
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"category 2 \(bat_\(animal\)\) has synset None"):
    _build(root)
  content["categories"][1]["synset"] = "bat"
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"lvis_v1_val\.json: synset 'bat' is not of the form"):
    _build(root)


def test_imagenet_of_other_synsets_is_refused(root):
  with pytest.raises(ValueError, match="has no images of the 3 synsets of"):
    for synset in ("n02121620", "n02139199.tar"):
      (root / "imagenet" / synset).rename(root / synset)
    _build(root)


class _MeanColours:
  """Embeds a crop as its mean colour."""

  image_size = 8

  def embed(self, crops):
    return crops.mean((1, 2)).astype(np.float32).reshape(-1, DIM)


def _precompute(folder, source, proposer):
  options = Options(pseudo_box_threshold=0.0)
  metadata = describe(proposer, options, "", "")
  writer = TeacherWriter(folder, "train", DIM, metadata, total=len(source))
  classes = np.random.default_rng(0).normal(size=(len(source.class_names), DIM))
  with ThreadPoolExecutor(1) as executor:
    precompute(source, proposer, _MeanColours(), classes, writer, options, executor)
  return TeacherReader(folder, "train")


def test_labels_become_pseudo_boxes_and_they_become_image_batches(root):
  _build(root)
  plain = _open(root)
  first = _precompute(root / "grown", plain, RegionGrowing())
  # Another run takes them over, as it does those of converted files.
  results = _precompute(root / "stored", plain, StoredProposals(first))
  assert [results[image_id]["pseudo_boxes/labels"].tolist() for image_id in IDS] == [
    first[image_id]["pseudo_boxes/labels"].tolist() for image_id in IDS
  ]
  source = select(join(plain, root / "stored", DIM), "pseudo_boxes")
  assert len(source) == 5
  spec = examples.BatchSpec(
    kind="image",
    batch_size=5,
    canvas=(64, 64),
    short_sides=(40,),
    max_side=64,
    max_labels=1,
    max_regions=5,
    embedding_dim=DIM,
  )
  rng = np.random.default_rng(0)
  batch = examples.collate(
    [
      examples.detector_example(r, decode_image(r), spec, rng)
      for r in map(source.__getitem__, range(5))
    ]
  )
  assert batch.pseudo_boxes.classes.ravel().tolist() == [1, 1, 2, 2, 2]
  assert batch.pseudo_boxes.valid.all() and batch.regions.valid.any()
  assert batch.image_ids.tolist() == [image_id % 2**31 for image_id in IDS]
