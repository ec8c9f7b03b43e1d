"""Folders with other pseudo boxes: all else stays, and a run that was stopped goes on."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rkd_jax.pseudo_labels import writing
from rkd_jax.pseudo_labels.writing import Labelled, behind, open_writer, write
from rkd_jax.records.results import TeacherReader
from tests import made_results

IDS = [30, 10, 20, 50, 40, 70, 60]


class _Split:
  """What `Joined` has, without records."""

  split, class_names = "train", ("cat", "dog", "red kite")

  def __init__(self, folder):
    self.results = TeacherReader(folder, "train")
    self.index = SimpleNamespace(image_ids=np.array(IDS))

  def __len__(self):
    return len(IDS)

  def result(self, index):
    return self.results[IDS[index]]


@pytest.fixture
def source(tmp_path):
  made_results.write(tmp_path / "teachers", IDS)
  return _Split(tmp_path / "teachers")


def _labelled(index):
  """One box for odd records, none for the others."""
  count = index % 2
  return Labelled(
    np.full((count, 4), index, np.float32), np.full(count, 2), np.full(count, 0.25, np.float32)
  )


def _write(folder, source, labelled=_labelled, keep=False, settings=None):
  writer = open_writer(folder, source, settings or {"rule": {"top": 3}}, records_per_shard=2)
  write(source, writer, lambda indices: map(labelled, indices), keep)
  return TeacherReader(folder, "train")


def test_all_but_the_pseudo_boxes_is_copied(tmp_path, source):
  results = _write(tmp_path / "out", source)
  assert results.image_ids.tolist() == IDS and results.class_names == source.class_names
  for index, image_id in enumerate(IDS):
    found, before = results[image_id], made_results.results(image_id)
    for key in ("regions/boxes", "regions/scores", "regions/clip_embeddings"):
      np.testing.assert_array_equal(found[key], before[key])
    own = writing.of_result(found)
    for column, expected in zip(own, _labelled(index)):
      np.testing.assert_array_equal(column, expected)
  assert results.num_pseudo_boxes.tolist() == [0, 1, 0, 1, 0, 1, 0]
  assert results.metadata["clip"] == "abc"
  assert results.metadata["pseudo_labels"]["of"] == source.results.identity


def test_kept_pseudo_boxes_come_first(tmp_path, source):
  results = _write(tmp_path / "out", source, keep=True)
  for index, image_id in enumerate(IDS):
    labels = made_results.results(image_id)["pseudo_boxes/labels"].tolist()
    assert results[image_id]["pseudo_boxes/labels"].tolist() == labels + [2] * (index % 2)


def test_a_box_that_is_there_is_not_added_again():
  first = Labelled(np.array([[0, 0, 10, 10]], np.float32), np.array([1]), np.array([0.9], "f"))
  boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 9], [0, 0, 10, 4], [30, 30, 40, 40]], np.float32)
  second = Labelled(boxes, np.array([1, 2, 1, 1]), np.array([0.8, 0.7, 0.6, 0.5], np.float32))
  both = behind(first, second)
  np.testing.assert_array_equal(both.boxes, np.concatenate([first.boxes, boxes[1:]]))
  assert both.labels.tolist() == [1, 2, 1, 1]
  np.testing.assert_allclose(both.scores, [0.9, 0.7, 0.6, 0.5])


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, source):
  _write(tmp_path / "straight", source)
  asked = []

  def stops(index):
    if index == 4:
      raise KeyboardInterrupt
    return _labelled(index)

  def counted(index):
    asked.append(index)
    return _labelled(index)

  with pytest.raises(KeyboardInterrupt):
    _write(tmp_path / "stopped", source, stops)
  _write(tmp_path / "stopped", source, counted)
  assert asked == [4, 5, 6]
  for path in (tmp_path / "straight" / "train").iterdir():
    assert path.read_bytes() == (tmp_path / "stopped" / "train" / path.name).read_bytes(), path
  # And once more, when all is there.
  _write(tmp_path / "stopped", source, counted)
  assert asked == [4, 5, 6]


def test_other_settings_need_another_folder(tmp_path, source):
  _write(tmp_path / "out", source)
  with pytest.raises(ValueError, match=r"was made with .*top.*use the same settings, or another"):
    open_writer(tmp_path / "out", source, {"rule": {"top": 4}})
  metadata = json.loads((tmp_path / "out" / "train" / "metadata.json").read_text())
  assert metadata["settings"]["pseudo_labels"]["rule"] == {"top": 3}
