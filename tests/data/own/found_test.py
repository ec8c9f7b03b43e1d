"""Which format a folder has, where its images are, and how it is divided."""

import json
import shutil

import own_folders
import pytest

from rkd_jax.data.coco_json.coco_json import CocoJson
from rkd_jax.data.coco_json.split import divide
from rkd_jax.data.own import found as own
from rkd_jax.data.own import places


@pytest.mark.parametrize(
  "name, format", [("coco", "COCO JSON"), ("voc", "Pascal VOC"), ("yolo", "YOLO")]
)
def test_a_format_is_recognised(tmp_path, name, format):
  found = own.recognise(own_folders.WRITERS[name](tmp_path))
  assert found.format == format and set(found.splits) == {"train"}


def test_the_folder_of_annotations_stands_for_the_one_above(tmp_path):
  own_folders.write_voc(tmp_path)
  assert own.recognise(tmp_path / "Annotations").roots == {"train": tmp_path}


def test_nothing_recognisable_says_what_was_looked_for(tmp_path):
  (tmp_path / "pictures").mkdir()
  (tmp_path / "notes.json").write_text("[1, 2]")
  with pytest.raises(ValueError, match=r"no annotations were recognised. Looked in .*pictures for"):
    own.recognise(tmp_path)
  with pytest.raises(FileNotFoundError, match="no such file or folder"):
    own.recognise(tmp_path / "none")


def test_two_formats_in_one_folder_are_not_guessed_between(tmp_path):
  own_folders.write_voc(own_folders.write_yolo(tmp_path))
  with pytest.raises(ValueError, match="several formats, Pascal VOC and YOLO: give"):
    own.recognise(tmp_path)


def test_validation_may_be_another_source_of_the_same_format(tmp_path):
  coco, yolo = (own_folders.WRITERS[name](tmp_path / name) for name in ("coco", "yolo"))
  found = own.recognise(coco, coco / "train.json")
  files = own.read(found)
  assert files["validation"].images == files["train"].images == coco / "images"
  with pytest.raises(ValueError, match=r"is COCO JSON, but .* is YOLO: give both in one format"):
    own.recognise(coco, yolo)


@pytest.mark.parametrize(
  "layout",
  [
    {"train.json": "train", "validation.json": "validation"},
    {
      "annotations/instances_train2017.json": "train2017",
      "annotations/instances_val2017.json": "val2017",
    },
    {"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"},
    {"labels/train.json": "images/train", "labels/val.json": "images/val"},
  ],
)
def test_images_are_found_for_each_split_though_names_are_equal(tmp_path, layout):
  for file, folder in layout.items():
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(json.dumps(own_folders.coco_content()))
    own_folders.write_images(tmp_path / folder)
  files = own.read(own.recognise(tmp_path))
  assert [own.images for own in files.values()] == [tmp_path / own for own in layout.values()]
  assert list(files) == ["train", "validation"]


def test_images_of_a_json_are_looked_for_beside_it(tmp_path):
  own_folders.write_coco(tmp_path)
  (tmp_path / "json").mkdir()
  shutil.move(tmp_path / "train.json", tmp_path / "json" / "a.json")
  assert (
    own.read(own.recognise(tmp_path / "json" / "a.json"))["train"].images == tmp_path / "images"
  )
  shutil.rmtree(tmp_path / "images")
  with pytest.raises(ValueError, match=r"such as '0\.png', was found. Looked in .*json"):
    own.read(own.recognise(tmp_path))


def test_several_files_for_one_split_are_named(tmp_path):
  own_folders.write_coco(tmp_path)
  shutil.copy(tmp_path / "train.json", tmp_path / "train_old.json")
  with pytest.raises(ValueError, match=r"for the split train: .*train\.json, .*train_old\.json"):
    own.recognise(tmp_path)


def test_a_damaged_json_of_a_known_name_is_not_passed_over(tmp_path):
  own_folders.write_coco(tmp_path)
  (tmp_path / "train.json").write_text('{"images": [')
  with pytest.raises(ValueError, match="is not valid JSON: line 1"):
    own.read(own.recognise(tmp_path))


@pytest.mark.parametrize(
  "name, role",
  [
    ("instances_train2017.json", "train"),
    ("valid/images", "validation"),
    ("train/images/val", "validation"),
    ("trains/a.jpg", None),
    ("TEST", "test"),
  ],
)
def test_words_of_a_path_say_the_split(name, role):
  assert places.role(name) == role


def test_a_share_is_chosen_by_names_alone_and_stays(tmp_path):
  files = own.read(own.recognise(own_folders.write_coco(tmp_path)))
  built = CocoJson(data_dir=tmp_path / "built", train=files["train"], validation_share=0.4)
  parts = {name: [image.filename for image in own.images] for name, own in built.splits.items()}
  assert sorted(parts["train"] + parts["validation"]) == [f"{number}.png" for number in range(8)]
  images = built.splits["train"].content.images
  again = divide(images[::-1], 0.4)
  assert [{image.filename for image in part} for part in again] == list(map(set, parts.values()))
  fewer = divide([i for i in images if i.filename != parts["train"][0]], 0.4)
  assert [image.filename for image in fewer[1]] == parts["validation"]
  # The smallest share is one image.
  assert len(divide(images, 1e-9)[1]) == 1
  with pytest.raises(ValueError, match="1 images cannot be divided"):
    divide(images[:1], 0.1)
  with pytest.raises(ValueError, match=r"share to evaluate on is 1\.5"):
    divide(images, 1.5)


def test_links_that_lead_nowhere_are_passed_over(tmp_path):
  (tmp_path / "loop").symlink_to("loop")
  (tmp_path / ".hidden").mkdir()
  (tmp_path / "a" / "b").mkdir(parents=True)
  assert places.folders(tmp_path, 1) == [tmp_path, tmp_path / "a"]
  assert places.folders(tmp_path, 2)[-1] == tmp_path / "a" / "b"
