"""The original's pickles of regions and pseudo boxes, to records and back."""

import json
import pickle
import pickletools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from rkd_jax.data import published_teachers as teachers
from rkd_jax.files.torch_writer import pickle_tensors
from rkd_jax.files.untrusted.torch_reader import ReadError, read_objects
from rkd_jax.records.results import TeacherReader

# Written by torch 2.13: three regions with embeddings of width 8, two of them in one storage.
PUBLISHED = Path(__file__).parents[1] / "golden" / "rkd_regions.pkl"
CLASS_OF = {17: 0, 18: 1}


def dump(path, content):
  path.write_bytes(pickle.dumps(content))
  return path


def test_regions_that_torch_wrote():
  record = teachers.read_regions(PUBLISHED)
  assert record["regions/boxes"].tolist() == [[3, -1, 20, 18], [0, 0, 5, 5], [7, 1, 9, 30]]
  rows = [np.arange(8) / 10, np.arange(16, 24) / 10, np.ones(8)]
  np.testing.assert_array_equal(record["regions/clip_embeddings"], np.float32(rows))
  assert record["regions/scores"].tolist() == [0, 0, 0]


def test_regions_come_back(tmp_path):
  record = teachers.read_regions(PUBLISHED)
  record["regions/boxes"][1] = [0.5, 0, 5, 5]
  teachers.write_regions(tmp_path / "a.pkl", record)
  again = teachers.read_regions(tmp_path / "a.pkl")
  for key, value in record.items():
    np.testing.assert_array_equal(again[key], value)
  (box, _), (second, embedding), _ = read_objects(tmp_path / "a.pkl")
  assert box == [3, -1, 20, 18] and all(type(x) is int for x in box)
  assert second == [0.5, 0, 5, 5] and embedding.shape == (1, 8)
  assert b"torch.storage\n_load_from_bytes" in (tmp_path / "a.pkl").read_bytes()


def test_pseudo_boxes_of_numpy_numbers(tmp_path):
  """As the original's script leaves them: NumPy rows and scores, empty below the threshold."""
  content = {
    18: ([np.array([1, 2, 3, 4])], [np.float32(0.97)]),
    17: ([], []),
    "salient": ([np.array([0, 0, 9, 9])], [np.float64(0.5)]),
  }
  record = teachers.columns(teachers.read_pseudo_boxes(dump(tmp_path / "a.pkl", content), CLASS_OF))
  assert record["pseudo_boxes/boxes"].tolist() == [[1, 2, 3, 4]]
  assert record["pseudo_boxes/labels"].tolist() == [1]
  assert record["pseudo_boxes/scores"].tolist() == [np.float32(0.97)]
  teachers.write_pseudo_boxes(tmp_path / "b.pkl", record, [17, 18])
  again = pickle.loads((tmp_path / "b.pkl").read_bytes())
  assert again == {18: ([[1, 2, 3, 4]], [float(np.float32(0.97))])}


@pytest.mark.parametrize(
  "content, message",
  [
    ({1: 2}, r"a\.pkl: expected a list of \(box, embedding\)"),
    ([3], r"region 0 is 3, expected \(box, embedding\)"),
    ([([1, 2, 3], np.ones((1, 4)))], r"region 0: the box is \[1\.0, 2\.0, 3\.0\]"),
    ([([1, 2, 3, np.nan], np.ones((1, 4)))], "region 0: the box is .*four finite numbers"),
    ([([1, 2, 3, 4], np.ones(4)), ([1, 2, 3, 4], np.ones(5))], "differ in width"),
  ],
)
def test_wrong_regions_are_named(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    teachers.read_regions(dump(tmp_path / "a.pkl", content))


@pytest.mark.parametrize(
  "content, message",
  [
    ([], r"a\.pkl: expected a dict by category id"),
    ({99: ([], [])}, r"category 99 is not in the annotations"),
    ({17: 3}, r"category 17 has 3, expected \(boxes, scores\)"),
    ({17: ([[1, 2, 3, 4]], [])}, "has 1 boxes and 0 scores"),
  ],
)
def test_wrong_pseudo_boxes_are_named(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    teachers.read_pseudo_boxes(dump(tmp_path / "a.pkl", content), CLASS_OF)


def test_pickles_that_unfold_without_end_are_refused(tmp_path):
  doubled = []
  for _ in range(40):
    doubled = [doubled, doubled]
  with pytest.raises(ReadError, match="more than 100000 objects"):
    read_objects(dump(tmp_path / "a.pkl", doubled))
  cycle = []
  cycle.append(cycle)
  with pytest.raises(ReadError, match=r"one inside itself|too deeply"):
    read_objects(dump(tmp_path / "a.pkl", cycle))


@pytest.mark.parametrize(
  "old, new, message",
  [
    (np.float32([7, 7, 7]).tobytes(), b"\0" * 8, "8 bytes for 3 numbers of float32"),
    (b"FloatStorage", b"DoubleStorage", "numbers of float64"),
    (b"torch\nFloatStorage", b"posix\nsystem", r"asks for posix\.system"),
    (b"K\x03NtQ.", b"K\x04NtQ.", "12 bytes for 4 numbers"),
  ],
)
def test_storages_that_lie_are_refused(tmp_path, old, new, message):
  whole = pickle_tensors([np.float32([7, 7, 7])])
  data = next(value for _, value, _ in pickletools.genops(whole) if isinstance(value, bytes))
  assert old in data and len(data) < 256
  before, after = whole.split(data)
  changed = data.replace(old, new)
  # In place of the opcode of short bytes and its length: that of long ones.
  path = tmp_path / "a.pkl"
  path.write_bytes(before[:-2] + b"B" + len(changed).to_bytes(4, "little") + changed + after)
  with pytest.raises(ReadError, match=message):
    read_objects(path)


@pytest.fixture
def run(monkeypatch, capsys):
  def call(*arguments):
    monkeypatch.setattr(sys, "argv", ["teachers", *map(str, arguments)])
    try:
      teachers.main()
    except SystemExit as end:
      return end.code, capsys.readouterr().err
    return 0, capsys.readouterr().out

  return call


def test_folders_to_records_and_back(run, tmp_path):
  annotation_file = tmp_path / "train.json"
  images = [
    {"id": 9, "file_name": "train/000009.jpg"},
    {"id": 4, "file_name": "n01440764/n01440764_18.JPEG"},
  ]
  categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
  annotation_file.write_text(json.dumps({"images": images, "categories": categories}))
  regions, boxes = tmp_path / "regions", tmp_path / "boxes"
  for folder in (regions, boxes):
    (folder / "n01440764").mkdir(parents=True)
  (regions / "000009.pkl").write_bytes(PUBLISHED.read_bytes())
  dump(regions / "n01440764" / "n01440764_18.pkl", [])
  dump(boxes / "000009.pkl", {18: ([[1, 2, 3, 4]], [0.5])})
  common = (f"--annotations={annotation_file}", "--split=train", f"--output={tmp_path / 'records'}")
  code, message = run(*common, f"--regions={regions}", f"--pseudo_boxes={boxes}")
  assert code == 1 and "There is no" in message and "n01440764_18.pkl" in message
  dump(boxes / "n01440764" / "n01440764_18.pkl", {17: ([[0, 0, 8, 8]], [0.25])})
  assert run(*common, f"--regions={regions}", f"--pseudo_boxes={boxes}") == (0, "2 images\n")

  reader = TeacherReader(tmp_path / "records", "train", 8)
  assert reader[9]["pseudo_boxes/labels"].tolist() == [1]
  assert reader[4]["pseudo_boxes/labels"].tolist() == [0]
  assert reader[4]["regions/clip_embeddings"].shape == (0, 8)

  back = (f"--regions={tmp_path / 'r'}", f"--pseudo_boxes={tmp_path / 'b'}", "--to=pickles")
  assert run(*common, *back)[0] == 0
  for name in ("000009.pkl", "n01440764/n01440764_18.pkl"):
    assert read_objects(tmp_path / "b" / name) == read_objects(boxes / name)
  np.testing.assert_array_equal(
    teachers.read_regions(tmp_path / "r" / "000009.pkl")["regions/clip_embeddings"],
    reader[9]["regions/clip_embeddings"],
  )


@pytest.fixture
def imagenet(tmp_path):
  """Two images of ImageNet-LVIS as the original's tools describe them, and their regions."""
  names = [f"n0144076{i}/n0144076{i}_18.JPEG" for i in (4, 5)]
  images = [
    {"id": i, "file_name": name, "width": 20, "height": 10, "pos_category_ids": [18]}
    for i, name in enumerate(names, start=1)
  ]
  categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
  box = {"id": 1, "image_id": 2, "category_id": 18, "bbox": [3, 1, 9, 8], "area": 42}
  content = {"images": images, "categories": categories, "annotations": [box]}
  (tmp_path / "info.json").write_text(json.dumps(content))
  for name in names:
    path = (tmp_path / "regions" / name).with_suffix(".pkl")
    path.parent.mkdir(parents=True)
    path.write_bytes(PUBLISHED.read_bytes())
  arguments = ("--imagenet", f"--annotations={tmp_path / 'info.json'}", "--split=train")
  return content, (*arguments, f"--output={tmp_path / 'records'}")


def test_the_json_of_imagenet_pseudo_boxes_and_back(run, tmp_path, imagenet):
  """Its boxes are XYXY; ids are those that data/imagenet_lvis gives the files."""
  content, common = imagenet
  paths = (f"--regions={tmp_path / 'regions'}", f"--pseudo_boxes={tmp_path / 'info.json'}")
  assert run(*common, *paths) == (0, "2 images\n")
  reader = TeacherReader(tmp_path / "records", "train", 8)
  record = reader[14407650000018]
  assert record["pseudo_boxes/boxes"].tolist() == [[3, 1, 9, 8]]
  assert record["pseudo_boxes/labels"].tolist() == [1]
  assert record["pseudo_boxes/scores"].tolist() == [1]
  assert len(reader[14407640000018]["pseudo_boxes/boxes"]) == 0

  back = (f"--regions={tmp_path / 'r'}", f"--pseudo_boxes={tmp_path / 'b.json'}", "--to=pickles")
  assert run(*common, *back)[0] == 0
  content["images"] = content["images"][1:]
  assert json.loads((tmp_path / "b.json").read_text()) == content
  assert run(*common, *back, "--image_labels=F.json")[0] == 1


@pytest.mark.parametrize(
  "change, message",
  [
    ({"image_id": 7}, r"annotations\[0\]: image 7 is not in --annotations"),
    ({"category_id": 7}, r"annotations\[0\]: category 7 is not in"),
    ({"bbox": "wide"}, r"annotations\[0\]: the box is 'wide', expected four finite numbers"),
  ],
)
def test_wrong_entries_of_the_json_are_named(run, tmp_path, imagenet, change, message):
  content, common = imagenet
  boxes = tmp_path / "boxes.json"
  boxes.write_text(json.dumps({"annotations": [content["annotations"][0] | change]}))
  code, error = run(*common, f"--regions={tmp_path / 'regions'}", f"--pseudo_boxes={boxes}")
  assert code == 1 and re.search(rf"boxes\.json: {message}", error)


def test_image_labels_choose_the_pseudo_boxes(tmp_path, imagenet):
  """As the original's captions_train2017_tags_allcaps_pis.json does, where a label is left out."""
  for number in (4, 5):
    path = tmp_path / "boxes" / f"n0144076{number}" / f"n0144076{number}_18.pkl"
    path.parent.mkdir(parents=True)
    dump(path, {17: ([[0, 0, 5, 5]], [0.5]), 18: ([[1, 2, 3, 4]], [0.97])})
  labels = tmp_path / "labels.json"
  folders = (tmp_path / "info.json", tmp_path / "regions", tmp_path / "boxes")
  for name, kept, expected in (
    ("some", [{"id": 1, "pos_category_ids": [18]}], [1]),
    ("none", [], []),
  ):
    labels.write_text(json.dumps({"images": kept}))
    teachers.to_records(*folders, tmp_path / name, "train", labels)
    reader = TeacherReader(tmp_path / name, "train")
    assert reader[1]["pseudo_boxes/labels"].tolist() == expected
    assert reader[2]["pseudo_boxes/labels"].tolist() == []
  labels.write_text(json.dumps({"images": [{"id": 1, "pos_category_ids": [3]}]}))
  with pytest.raises(ValueError, match=r"labels\.json: images\[0\]: categories \[3\] are not in"):
    teachers.to_records(*folders, tmp_path / "wrong", "train", labels)


def test_images_of_lvis_are_found_by_their_url(tmp_path):
  images = [{"id": 9, "coco_url": "http://images.cocodataset.org/train2017/000009.jpg"}]
  categories = [{"id": 17, "name": "cat"}]
  (tmp_path / "lvis.json").write_text(json.dumps({"images": images, "categories": categories}))
  (tmp_path / "000009.pkl").write_bytes(PUBLISHED.read_bytes())
  assert teachers.to_records(tmp_path / "lvis.json", tmp_path, None, tmp_path, "train") == 1
