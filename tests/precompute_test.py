"""The offline step with a CLIP that only knows colours: contents, resuming, unreadable images."""

import dataclasses
import io
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rkd_jax.inputs.sources import Record
from rkd_jax.inputs.teachers import FIELDS, TeacherReader, TeacherWriter
from rkd_jax.precompute import (
  Options,
  assess,
  checksum,
  choose_pseudo_boxes,
  describe,
  precompute,
  process_pool,
)
from rkd_jax.proposals import RegionGrowing, iou

COLOURS = {"red": (214, 34, 34), "green": (40, 150, 52), "blue": (38, 74, 216)}
NAMES = tuple(COLOURS)
# Where the objects of `_record` are, whatever their colour.
PLACES = np.array([[8, 8, 30, 34], [52, 10, 84, 40], [20, 56, 60, 84]], np.float32)


def _embed_colours(colours):
  return np.asarray(colours, np.float32) / 128 - 1


class ColourEncoder:
  """Embeds the middle of a crop as its mean colour, and counts what it is asked."""

  image_size = 16

  def __init__(self, fail_at_call=None):
    self.calls = []
    self._fail_at_call = fail_at_call

  def embed(self, crops):
    self.calls.append(len(crops))
    if len(self.calls) == self._fail_at_call:
      raise KeyboardInterrupt
    return _embed_colours(crops[:, 5:11, 5:11].mean((1, 2))).reshape(-1, 3)


CLASS_EMBEDDINGS = _embed_colours([COLOURS[name] for name in NAMES])
OPTIONS = Options(regions=2, logit_scale=10.0)


@dataclasses.dataclass
class MemorySource:
  records: list[Record]
  class_names: tuple[str, ...] = NAMES

  def __len__(self):
    return len(self.records)

  def __getitem__(self, index):
    return self.records[index]


def _record(image_id, classes=(0, 1, 2), labels=(2, 0)):
  image = np.full((96, 96, 3), 120, np.uint8)
  for (x0, y0, x1, y1), class_ in zip(PLACES.astype(int), classes):
    image[y0:y1, x0:x1] = COLOURS[NAMES[class_]]
  noise = np.random.default_rng(image_id).integers(0, 6, image.shape, dtype=np.uint8)
  data = io.BytesIO()
  Image.fromarray(image + noise).save(data, "PNG")
  count = len(classes)
  return Record(
    image=data.getvalue(),
    image_id=image_id,
    filename=f"{image_id}.png",
    height=96,
    width=96,
    boxes=PLACES[:count],
    classes=np.array(classes, np.int32),
    is_crowd=np.zeros(count, bool),
    areas=np.ones(count, np.float32),
    object_ids=np.arange(count),
    labels=np.array(labels, np.int32),
    captions=(),
    region_boxes=np.zeros((0, 4), np.float32),
    region_embeddings=np.zeros((0, 3), np.float32),
    region_scores=np.zeros(0, np.float32),
    pseudo_boxes=np.zeros((0, 4), np.float32),
    pseudo_labels=np.zeros(0, np.int32),
    pseudo_scores=np.zeros(0, np.float32),
  )


def _run(folder, source, encoder=None, executor=None, options=OPTIONS, **settings):
  metadata = describe(RegionGrowing(), options, "abc")
  writer = TeacherWriter(folder, "train", 3, metadata, records_per_shard=2)
  with executor or ThreadPoolExecutor(2) as executor:
    precompute(
      source,
      RegionGrowing(),
      encoder or ColourEncoder(),
      CLASS_EMBEDDINGS,
      writer,
      options,
      executor,
      **settings,
    )
  return TeacherReader(folder, "train")


def _assert_same(results, expected, image_ids):
  assert len(results) == len(expected) == len(image_ids)
  for image_id, key in itertools.product(image_ids, FIELDS):
    np.testing.assert_array_equal(results[image_id][key], expected[image_id][key])


def test_each_label_gets_the_box_of_its_colour(tmp_path):
  orders = list(itertools.permutations(range(3)))
  source = MemorySource([_record(10 + i, classes) for i, classes in enumerate(orders)])
  results = _run(tmp_path, source)
  for record in source.records:
    result = results[record.image_id]
    assert result["pseudo_boxes/labels"].tolist() == [2, 0]
    for box, label in zip(result["pseudo_boxes/boxes"], [2, 0]):
      assert iou(box[None], record.boxes[record.classes == label]).item() > 0.8
    assert np.all(result["pseudo_boxes/scores"] > 0)


def test_regions_are_the_best_proposals_with_their_embeddings(tmp_path):
  record = _record(7)
  result = _run(tmp_path, MemorySource([record]))[7]
  image = np.asarray(Image.open(io.BytesIO(record.image)))
  boxes, scores = RegionGrowing().propose(image[None])[0]
  np.testing.assert_array_equal(result["regions/boxes"], boxes[:2])
  np.testing.assert_array_equal(result["regions/scores"], scores[:2])
  for box, embedding in zip(result["regions/boxes"], result["regions/clip_embeddings"]):
    colour = _embed_colours(COLOURS[NAMES[int(iou(box[None], PLACES).argmax())]])
    np.testing.assert_allclose(embedding, colour, atol=0.1)


def test_images_without_labels_are_embedded_for_regions_only(tmp_path):
  encoder = ColourEncoder()
  source = MemorySource([_record(i, labels=()) for i in range(3)])
  results = _run(tmp_path, source, encoder)
  assert encoder.calls == [3 * OPTIONS.regions]
  assert all(len(results[i]["pseudo_boxes/boxes"]) == 0 for i in range(3))


def test_an_interrupted_run_carries_on_and_ends_with_the_same_results(tmp_path):
  source = MemorySource([_record(i) for i in range(7)])
  expected = _run(tmp_path / "straight", source)
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path / "killed", source, ColourEncoder(fail_at_call=4), images_per_batch=1)
  with pytest.raises(ValueError, match="only 3 records"):
    TeacherReader(tmp_path / "killed", "train")
  encoder = ColourEncoder()
  results = _run(tmp_path / "killed", source, encoder, images_per_batch=1)
  assert len(encoder.calls) == 4
  _assert_same(results, expected, range(7))


def test_a_killed_process_loses_only_the_shard_it_was_writing(tmp_path):
  source = MemorySource([_record(i) for i in range(5)])
  expected = _run(tmp_path / "straight", source)
  with pytest.raises(KeyboardInterrupt):
    _run(tmp_path / "killed", source, ColourEncoder(fail_at_call=4), images_per_batch=1)
  # A kill leaves the third record in an unfinished file instead of the second shard.
  shards = sorted((tmp_path / "killed" / "train").glob("*.arrayrecord"))
  shards[1].rename(shards[1].with_name("shard.arrayrecord.partial"))
  encoder = ColourEncoder()
  results = _run(tmp_path / "killed", source, encoder, images_per_batch=1)
  assert len(encoder.calls) == 3
  _assert_same(results, expected, range(5))


def test_other_settings_do_not_mix_with_earlier_results(tmp_path):
  source = MemorySource([_record(0)])
  _run(tmp_path, source)
  with pytest.raises(ValueError, match="same settings"):
    _run(tmp_path, source, options=dataclasses.replace(OPTIONS, context=0.3))


def test_worker_processes_give_the_same_results(tmp_path):
  source = MemorySource([_record(i) for i in range(5)])
  expected = _run(tmp_path / "threads", source)
  results = _run(tmp_path / "processes", source, executor=process_pool(1), images_per_batch=2)
  _assert_same(results, expected, range(5))


def test_an_unreadable_image_is_reported_and_its_neighbours_stay(tmp_path):
  good = [_record(0), _record(2)]
  bad = dataclasses.replace(_record(1), image=_record(1).image[:200])
  source = MemorySource([good[0], bad, good[1]])
  results = _run(tmp_path / "with", source)
  without = _run(tmp_path / "without", MemorySource(good))
  for image_id, key in itertools.product((0, 2), FIELDS):
    np.testing.assert_array_equal(results[image_id][key], without[image_id][key])
  assert all(len(results[1][key]) == 0 for key in FIELDS)
  report = assess(source, results, RegionGrowing(), OPTIONS)
  assert list(report["unreadable"]) == ["1"]
  assert "1.png" in report["unreadable"]["1"]


def test_an_image_without_proposals_is_no_error(tmp_path):
  source = MemorySource([_record(0, classes=())])
  results = _run(tmp_path, source)
  assert all(len(results[0][key]) == 0 for key in FIELDS)
  report = assess(source, results, RegionGrowing(), OPTIONS)
  assert report["unreadable"] == {}
  assert report["box_recall"] is None


def test_assessment_by_hand(tmp_path):
  """Two of three boxes are among the two regions kept; labels that are not there are not judged."""
  source = MemorySource([_record(0, labels=(2, 0)), _record(1, classes=(0, 1), labels=(2,))])
  report = assess(source, _run(tmp_path, source), RegionGrowing(), OPTIONS)
  assert report == {
    "images": 2,
    "regions": 4,
    "pseudo_boxes": 3,
    "unreadable": {},
    "box_recall": pytest.approx(4 / 5),
    "pseudo_box_precision": 1.0,
  }


def test_a_region_like_every_class_loses_to_one_like_the_label_alone():
  classes = np.eye(2)
  embeddings = np.array([[0.7, 0.7], [0.65, 0.0]])
  arguments = (embeddings, np.ones(2), np.array([0]), classes)
  chosen, labels, scores = choose_pseudo_boxes(*arguments, Options(logit_scale=2.0))
  assert (chosen.tolist(), labels.tolist()) == ([1], [0])
  np.testing.assert_allclose(scores, np.exp(2) / (np.exp(2) + 1), rtol=1e-6)


def test_objectness_decides_between_equals_and_the_threshold_drops():
  embeddings = np.array([[1.0, 0.0], [1.0, 0.0]])
  arguments = (embeddings, np.array([0.25, 0.81]), np.array([0, 1]), np.eye(2))
  chosen, labels, scores = choose_pseudo_boxes(*arguments, Options())
  assert (chosen.tolist(), labels.tolist()) == ([1, 1], [0, 1])
  np.testing.assert_allclose(scores[0], 0.9, rtol=1e-6)
  chosen, labels, _ = choose_pseudo_boxes(*arguments, Options(pseudo_box_threshold=0.5))
  assert (chosen.tolist(), labels.tolist()) == ([1], [0])


def test_class_embeddings_of_other_classes_are_refused(tmp_path):
  writer = TeacherWriter(tmp_path, "train", 3, {})
  source = MemorySource([_record(0)])
  with pytest.raises(ValueError, match="2 class embeddings for the 3 classes"):
    precompute(source, RegionGrowing(), ColourEncoder(), CLASS_EMBEDDINGS[:2], writer)


@pytest.mark.parametrize("wrong", [{"regions": 0}, {"crop_mode": "tight"}])
def test_wrong_options_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    Options(**wrong)


def test_checksum_sees_values_and_names():
  variables = {"a": np.arange(3.0), "b": np.zeros(2)}
  assert checksum(variables) == checksum({"b": np.zeros(2), "a": np.arange(3.0)})
  assert checksum(variables) != checksum({**variables, "b": np.array([0, 1e-30])})
  assert checksum(variables) != checksum({"a": np.arange(3.0), "c": np.zeros(2)})
