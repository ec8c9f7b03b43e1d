"""The offline step with a CLIP that only knows colours: contents, resuming, sharing, bad images."""

import dataclasses
import io
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image

from rkd_jax.machine.workers import process_pool
from rkd_jax.ops.host import iou
from rkd_jax.records.results import FIELDS, TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.teachers import pipeline
from rkd_jax.teachers.pipeline import assess, describe, precompute
from rkd_jax.teachers.region_growing import RegionGrowing
from tests import colours
from tests.colours import (
  CLASS_EMBEDDINGS,
  COLOURS,
  NAMES,
  OPTIONS,
  PLACES,
  ColourEncoder,
  MemorySource,
  embed_colours,
)

GROWING = RegionGrowing()


def _run(
  folder,
  source,
  encoder=None,
  executor=None,
  options=OPTIONS,
  proposer=GROWING,
  process=(0, 1),
  images_per_group=pipeline.GROUP,
  skip_bad_images=True,
):
  metadata = describe(proposer, options, "abc", "quick_gelu")
  writer = TeacherWriter(folder, "train", 3, metadata, 2, len(source), *process)
  encoder = encoder or ColourEncoder()
  with executor or ThreadPoolExecutor(2) as executor, pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline, "GROUP", images_per_group)
    more = options, executor, skip_bad_images
    precompute(source, proposer, encoder, CLASS_EMBEDDINGS, writer, *more)
  return TeacherReader(folder, "train") if writer.complete else None


def _assert_same(results, expected, image_ids):
  assert len(results) == len(expected) == len(image_ids)
  for image_id, key in itertools.product(image_ids, FIELDS):
    np.testing.assert_array_equal(results[image_id][key], expected[image_id][key])


def test_each_label_gets_the_box_of_its_colour(tmp_path):
  orders = list(itertools.permutations(range(3)))
  source = MemorySource([colours.record(10 + i, classes) for i, classes in enumerate(orders)])
  results = _run(tmp_path, source)
  for record in source.records:
    result = results[record.image_id]
    assert result["pseudo_boxes/labels"].tolist() == [2, 0]
    for box, label in zip(result["pseudo_boxes/boxes"], [2, 0]):
      assert iou(box[None], record.boxes[record.classes == label]).item() > 0.8
    assert np.all(result["pseudo_boxes/scores"] > 0)


def test_regions_are_the_best_proposals_with_their_embeddings(tmp_path):
  record = colours.record(7)
  result = _run(tmp_path, MemorySource([record]))[7]
  image = np.asarray(Image.open(io.BytesIO(record.image)))
  boxes, scores = RegionGrowing().propose(image)
  np.testing.assert_array_equal(result["regions/boxes"], boxes[:2])
  np.testing.assert_array_equal(result["regions/scores"], scores[:2])
  for box, embedding in zip(result["regions/boxes"], result["regions/clip_embeddings"]):
    colour = embed_colours(COLOURS[NAMES[int(iou(box[None], PLACES).argmax())]])
    np.testing.assert_allclose(embedding, colour, atol=0.1)


def test_images_without_labels_are_embedded_for_regions_only(tmp_path):
  encoder = ColourEncoder()
  source = MemorySource([colours.record(i, labels=()) for i in range(3)])
  results = _run(tmp_path, source, encoder)
  assert encoder.calls == [3 * OPTIONS.regions]
  assert all(len(results[i]["pseudo_boxes/boxes"]) == 0 for i in range(3))


def test_an_interrupted_run_carries_on_and_ends_with_the_same_results(tmp_path):
  source = MemorySource([colours.record(i) for i in range(7)])
  expected = _run(tmp_path / "straight", source)
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path / "killed", source, ColourEncoder(fail_at_call=4), images_per_group=1)
  with pytest.raises(ValueError, match="only 3 results"):
    TeacherReader(tmp_path / "killed", "train")
  encoder = ColourEncoder()
  results = _run(tmp_path / "killed", source, encoder, images_per_group=1)
  assert len(encoder.calls) == 4
  _assert_same(results, expected, range(7))


def test_a_killed_process_loses_only_the_shard_it_was_writing(tmp_path):
  source = MemorySource([colours.record(i) for i in range(5)])
  expected = _run(tmp_path / "straight", source)
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path / "killed", source, ColourEncoder(fail_at_call=4), images_per_group=1)
  # A kill leaves the third record in an unfinished file instead of the second shard.
  second = tmp_path / "killed" / "train" / "part-00001"
  second.with_suffix(".json").unlink()
  second.with_suffix(".array_record").rename(second.with_name("part.partial"))
  encoder = ColourEncoder()
  results = _run(tmp_path / "killed", source, encoder, images_per_group=1)
  assert len(encoder.calls) == 3
  _assert_same(results, expected, range(5))


def test_other_settings_do_not_mix_with_earlier_results(tmp_path):
  source = MemorySource([colours.record(0)])
  _run(tmp_path, source)
  with pytest.raises(ValueError, match="same settings"):
    _run(tmp_path, source, options=dataclasses.replace(OPTIONS, context=0.3))


def test_worker_processes_give_the_same_results(tmp_path):
  source = MemorySource([colours.record(i) for i in range(5)])
  expected = _run(tmp_path / "threads", source)
  results = _run(tmp_path / "processes", source, executor=process_pool(1), images_per_group=2)
  _assert_same(results, expected, range(5))


def test_an_unreadable_image_is_reported_and_its_neighbours_stay(tmp_path):
  good = [colours.record(0), colours.record(2)]
  bad = dataclasses.replace(colours.record(1), image=colours.record(1).image[:200])
  source = MemorySource([good[0], bad, good[1]])
  results = _run(tmp_path / "with", source)
  without = _run(tmp_path / "without", MemorySource(good))
  for image_id, key in itertools.product((0, 2), FIELDS):
    np.testing.assert_array_equal(results[image_id][key], without[image_id][key])
  assert all(len(results[1][key]) == 0 for key in FIELDS)
  report = assess(source, results)
  assert list(report["unreadable"]) == ["1"]
  assert "1.png" in report["unreadable"]["1"]
  with pytest.raises(ValueError, match=r"image 1: .*1\.png.*--skip_bad_images"):
    _run(tmp_path / "strict", source, skip_bad_images=False)


def test_an_image_without_proposals_is_no_error(tmp_path):
  source = MemorySource([colours.record(0, classes=())])
  results = _run(tmp_path, source)
  assert all(len(results[0][key]) == 0 for key in FIELDS)
  report = assess(source, results)
  assert report["unreadable"] == {}
  assert report["box_recall"] is None


def test_class_embeddings_of_other_classes_are_refused(tmp_path):
  writer = TeacherWriter(tmp_path, "train", 3, {})
  source = MemorySource([colours.record(0)])
  classes = CLASS_EMBEDDINGS[:2]
  with (
    ThreadPoolExecutor(1) as executor,
    pytest.raises(ValueError, match="2 class embeddings for the 3 classes"),
  ):
    precompute(source, RegionGrowing(), ColourEncoder(), classes, writer, OPTIONS, executor)


def test_other_processes_take_the_other_groups(tmp_path):
  source = MemorySource([colours.record(i) for i in range(7)])
  expected = _run(tmp_path / "alone", source)
  encoders = [ColourEncoder(), ColourEncoder()]
  for index in (1, 0):
    results = _run(
      tmp_path / "shared", source, encoders[index], process=(index, 2), images_per_group=2
    )
    if index == 1:
      assert results is None
      with pytest.raises(ValueError, match="only 3 results"):
        TeacherReader(tmp_path / "shared", "train")
  _assert_same(results, expected, range(7))
  assert [len(encoder.calls) for encoder in encoders] == [2, 2]


def test_the_number_of_processes_may_change(tmp_path):
  source = MemorySource([colours.record(i) for i in range(9)])
  expected = _run(tmp_path / "alone", source)
  with pytest.raises(KeyboardInterrupt):
    _run(
      tmp_path / "many",
      source,
      ColourEncoder(fail_at_call=2),
      process=(2, 3),
      images_per_group=1,
    )
  for index in (0, 1):
    results = _run(tmp_path / "many", source, process=(index, 2), images_per_group=1)
  _assert_same(results, expected, range(9))


def test_crops_are_embedded_in_the_same_groups_after_a_restart(tmp_path):
  """A batch's rounding may depend on what else is in it."""
  source = MemorySource([colours.record(i) for i in range(8)])

  class Remembering(ColourEncoder):
    def __init__(self):
      super().__init__()
      self.seen = []

    def embed(self, crops):
      self.seen.append(crops.tobytes())
      return super().embed(crops)

  straight, resumed = Remembering(), Remembering()
  _run(tmp_path / "straight", source, straight, images_per_group=4)
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path / "killed", source, ColourEncoder(fail_at_call=2), images_per_group=4)
  # Two of the four images of the first group are lost.
  (tmp_path / "killed" / "train" / "part-00001.json").unlink()
  _run(tmp_path / "killed", source, resumed, images_per_group=4)
  assert resumed.seen == straight.seen


def test_results_of_images_that_moved_are_refused(tmp_path):
  records = [colours.record(i) for i in range(3)]
  _run(tmp_path, MemorySource(records))
  with pytest.raises(ValueError, match=r"Image \d was record \d .*built anew"):
    _run(tmp_path, MemorySource(records[::-1]))


class Canned:
  """A proposer that is called in the main process, and says the same of every image."""

  in_workers = False

  def __init__(self, boxes, answers):
    self._boxes, self._answers = np.array(boxes, np.float32), answers
    self.asked = []

  def propose(self, image):
    return self.answer(image, ())[0]

  def answer(self, image, names):
    self.asked.append(tuple(names))
    found = [self._answers[name] for name in names]
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in found], np.float32)
    return (self._boxes, np.linspace(0.9, 0.5, len(self._boxes), dtype=np.float32)), (boxes, scores)

  def describe(self):
    return {"name": "Canned"}


def test_what_answers_by_name_makes_the_pseudo_boxes(tmp_path):
  box = [52, 10, 84, 40]
  answers = {"red": (box, 0.96), "green": (box, 0.99), "blue": (box, 0.95)}
  proposer = Canned(PLACES, answers)
  source = MemorySource([colours.record(1, labels=(2, 0)), colours.record(2, labels=())])
  options = dataclasses.replace(OPTIONS, pseudo_box_threshold=0.95)
  results = _run(tmp_path, source, proposer=proposer, options=options)
  assert sorted(proposer.asked) == [(), ("blue", "red")]
  # 0.95 in single precision is less than the threshold, which a score must be above.
  assert results[1]["pseudo_boxes/labels"].tolist() == [0]
  np.testing.assert_array_equal(results[1]["pseudo_boxes/boxes"], [box])
  assert len(results[2]["pseudo_boxes/boxes"]) == 0
  for i in (1, 2):
    np.testing.assert_array_equal(results[i]["regions/boxes"], PLACES[:2])


def test_a_proposer_on_accelerators_is_called_twice_per_device_at_once(tmp_path):
  count = 2 * len(jax.local_devices())
  barrier = threading.Barrier(count, timeout=60)

  class Waiting(Canned):
    def answer(self, image, names):
      barrier.wait()
      return super().answer(image, names)

  source = MemorySource([colours.record(i, labels=()) for i in range(count)])
  expected = _run(tmp_path / "alone", source, proposer=Canned(PLACES, {}))
  results = _run(tmp_path / "together", source, proposer=Waiting(PLACES, {}))
  _assert_same(results, expected, range(count))


def test_a_bad_box_is_reported_and_its_neighbours_stay(tmp_path):
  boxes = [[20, 20, 20, 40], PLACES[0], [200, 0, 220, 20], [np.nan, 0, 9, 9], PLACES[1]]
  answers = {"red": ([-9, -9, 0, 0], 0.9), "blue": (PLACES[2], 0.8)}
  source = MemorySource([colours.record(3), colours.record(4, labels=())])
  results = _run(tmp_path, source, proposer=Canned(boxes, answers))
  np.testing.assert_array_equal(results[3]["regions/boxes"], PLACES[:2])
  np.testing.assert_array_equal(results[3]["regions/scores"], np.float32([0.8, 0.5]))
  assert results[3]["pseudo_boxes/labels"].tolist() == [2]
  report = assess(source, results)
  assert report["unreadable"] == {}
  assert [len(report["dropped_boxes"][i]) for i in ("3", "4")] == [4, 3]
  assert "region [20.0, 20.0, 20.0, 40.0] is empty or outside" in report["dropped_boxes"]["3"][0]
  assert "pseudo box [-9.0, -9.0, 0.0, 0.0]" in report["dropped_boxes"]["3"][3]


def test_reasons_survive_a_restart(tmp_path):
  bad = dataclasses.replace(colours.record(0), image=b"no image")
  source = MemorySource([bad, *(colours.record(i) for i in range(1, 4))])
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path, source, ColourEncoder(fail_at_call=3), images_per_group=1)
  results = _run(tmp_path, source, images_per_group=1)
  assert list(assess(source, results)["unreadable"]) == ["0"]


def test_assessment_by_hand(tmp_path):
  """Two of three boxes are among the two regions kept; labels that are not there are not judged."""
  source = MemorySource(
    [colours.record(0, labels=(2, 0)), colours.record(1, classes=(0, 1), labels=(2,))]
  )
  report = assess(source, _run(tmp_path, source))
  assert report == {
    "images": 2,
    "assessed": 2,
    "regions": 4,
    "pseudo_boxes": 3,
    "unreadable": {},
    "dropped_boxes": {},
    "box_recall": pytest.approx(4 / 5),
    "pseudo_box_precision": 1.0,
  }


def test_a_limit_takes_evenly_spaced_images(tmp_path, monkeypatch):
  source = MemorySource([colours.record(i) for i in range(5)])
  monkeypatch.setattr(pipeline, "ASSESSED", 2)
  report = assess(source, _run(tmp_path, source))
  assert (report["images"], report["assessed"], report["regions"]) == (5, 2, 4)
