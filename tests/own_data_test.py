"""The command `rkd-jax data`: records and class embeddings from a stranger's folder."""

import json
from types import SimpleNamespace

import numpy as np
import own_folders
import pytest
import tiny_clip

from rkd_jax import own_data, precompute
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.sources import open_source
from rkd_jax.vocabulary import class_embeddings

DATA_SET = "coco_json/plain"


@pytest.fixture
def source(tmp_path):
  return own_folders.write_coco(tmp_path / "source")


@pytest.fixture
def command(source, tmp_path):
  """Runs the command in this process; returns the folder of the project."""

  def call(*arguments, source=source):
    root = tmp_path / "project"
    own_data.main([f"--source={source}", f"--output={root}", "--workers=1", *arguments])
    return root

  return call


def _error(capsys, call, *arguments, **more) -> str:
  with pytest.raises(SystemExit) as raised:
    call(*arguments, **more)
  assert raised.value.code == 1
  return capsys.readouterr().err


def test_a_closed_vocabulary_needs_no_clip(command, capsys):
  root = command("--closed", "--embedding_dim=8", "--novel=kite")
  stored = class_embeddings.load(root / "class_embeddings.npz")
  assert stored.is_closed and stored.names == own_folders.NAMES
  np.testing.assert_array_equal(stored.embeddings @ stored.embeddings.T, np.eye(3))
  train = open_source(root / "data", DATA_SET, "train")
  validation = open_source(root / "data", DATA_SET, "validation")
  assert (train.base, train.novel) == (("cat", "dog"), ("kite",))
  assert len(train) + len(validation) == 8 and len(validation) >= 1
  out = capsys.readouterr().out
  assert "COCO JSON, with train" in out and "10% of the images, by the names of files" in out


def test_rows_without_names_are_those_of_the_classes_in_their_order(command, tmp_path, capsys):
  rows = np.arange(12, dtype=np.float16).reshape(3, 4)
  np.save(tmp_path / "rows.npy", rows)
  root = command(f"--class_embeddings={tmp_path / 'rows.npy'}")
  stored = class_embeddings.load(root / "class_embeddings.npz")
  np.testing.assert_array_equal(stored.embeddings, rows)
  assert stored.names == own_folders.NAMES and stored.source == str(tmp_path / "rows.npy")
  assert not stored.is_closed
  out = capsys.readouterr().out
  assert "rows are taken in the order of the classes, the first for 'cat', the last for" in out


def test_another_number_of_rows_without_names_says_how_they_get_some(command, tmp_path, capsys):
  np.save(tmp_path / "rows.npy", np.ones((5, 4), np.float32))
  error = _error(capsys, command, f"--class_embeddings={tmp_path / 'rows.npy'}")
  assert "has 5 rows without names, the annotations have 3 classes" in error
  assert "rkd-jax embed-classes --embeddings=" in error
  assert not (tmp_path / "project").exists()


def test_voc_numbers_no_classes_that_rows_could_follow(command, tmp_path, capsys):
  np.save(tmp_path / "rows.npy", np.ones((3, 4), np.float32))
  folder = own_folders.write_voc(tmp_path / "voc")
  error = _error(capsys, command, f"--class_embeddings={tmp_path / 'rows.npy'}", source=folder)
  assert "has 3 rows without names, the annotations have 3 classes, which their format" in error


def test_rows_with_names_are_chosen_by_name(command, tmp_path, capsys):
  names, rows = ("dog", "sea", "kite", "cat"), np.eye(4, dtype=np.float32)
  class_embeddings.save(tmp_path / "rows.npz", names, "a {}", rows)
  root = command(f"--class_embeddings={tmp_path / 'rows.npz'}")
  stored = class_embeddings.load(root / "class_embeddings.npz")
  np.testing.assert_array_equal(stored.embeddings, rows[[3, 0, 2]])
  assert stored.templates == ("a {}",)
  class_embeddings.save(tmp_path / "rows.npz", names[:3], "a {}", rows[:3])
  error = _error(capsys, command, f"--class_embeddings={tmp_path / 'rows.npz'}")
  assert "has no class 'cat' among its 3" in error


def test_a_clip_embeds_the_names_with_spaces(command, source, monkeypatch):
  content = own_folders.coco_content()
  content["categories"][2]["name"] = "red_kite"
  (source / "train.json").write_text(json.dumps(content))
  rows, asked = np.eye(3, 8, dtype=np.float32), []
  clip = SimpleNamespace(embed_texts=lambda texts: asked.extend(texts) or rows)
  monkeypatch.setattr(own_data, "load_clip", lambda path, activation: clip)
  stored = class_embeddings.load(command("--clip=W.pt") / "class_embeddings.npz")
  assert asked == ["a photo of a cat", "a photo of a dog", "a photo of a red kite"]
  assert stored.names == ("cat", "dog", "red_kite")
  np.testing.assert_array_equal(stored.embeddings, rows)
  assert stored.templates == ("a photo of a {}",) and stored.source == "CLIP W.pt"


def test_without_rows_it_says_what_training_needs_and_keeps_the_records(command, capsys):
  root = command()
  assert "class_embeddings.npz is not there, and training needs it" in capsys.readouterr().out
  written = (root / "data" / DATA_SET).stat().st_mtime_ns
  command("--closed")
  assert (root / "data" / DATA_SET).stat().st_mtime_ns == written
  command()
  assert "is there from before, and has a row for every class" in capsys.readouterr().out


def test_a_dry_run_stores_nothing(command):
  assert not command("--dry_run", "--closed").exists()


def test_an_image_in_both_splits_is_warned_of(command, source, capsys):
  command("--closed", f"--validation={source / 'train.json'}")
  assert "WARNING: 8 images are in train and in validation, such as" in capsys.readouterr().out


def test_missing_images_and_an_unknown_folder_end_with_sentences(command, source, capsys):
  for number in (5, 7):
    (source / "images" / f"{number}.png").unlink()
  error = _error(capsys, command, "--closed")
  assert "train.json has 2 problems" in error
  assert all(f"{n}.png (image id {n + 1} of" in error for n in (5, 7))
  assert "no annotations were recognised" in _error(
    capsys, command, source=own_folders.write_images(source / "pictures") or source / "pictures"
  )


@pytest.mark.door
@pytest.mark.parametrize("name", ["voc", "yolo"])
def test_each_format_gives_the_records_and_the_regions_of_the_others(name, tmp_path):
  """Folder to records, and those through a tiny CLIP: the same from each format."""
  texts = [f"a photo of a {name}" for name in own_folders.NAMES]
  clip = tiny_clip.write_run(tmp_path / "clip", texts)
  made = {}
  for key in ("coco", name):
    folder, root = own_folders.WRITERS[key](tmp_path / key), tmp_path / f"project_{key}"
    flags = [f"--source={folder}", f"--output={root}", f"--clip={clip}", "--workers=1"]
    own_data.main([*flags, "--validation_share=0"])
    precompute.main([f"--root={root}", f"--clip={clip}", "--workers=1"])
    data = open_source(root / "data", DATA_SET, "train")
    made[key] = data, TeacherReader(root / "teachers", "train")
  (data, regions), (other, other_regions) = made.values()
  assert len(data) == len(other) == 8 and data.class_names == other.class_names
  for position in range(8):
    one, two = data[position], other[position]
    assert one.image == two.image and one.image_id == two.image_id
    np.testing.assert_array_equal(one.boxes, two.boxes)
    np.testing.assert_array_equal(
      one.boxes, [box for _, box in own_folders.OBJECTS[position]] or np.zeros((0, 4))
    )
    np.testing.assert_array_equal(one.classes, two.classes)
    results = regions[one.image_id], other_regions[two.image_id]
    assert results[0].keys() == results[1].keys()
    for field, value in results[0].items():
      np.testing.assert_array_equal(value, results[1][field])
  assert sum(len(regions[data[i].image_id]["regions/boxes"]) for i in range(8)) >= 8
