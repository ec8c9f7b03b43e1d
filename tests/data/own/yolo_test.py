"""YOLO: golden boxes and polygons, ways to say where images are, and what is said of bad lines."""

import numpy as np
import own_folders
import pytest

from rkd_jax.data.coco_json.annotations import load_annotations
from rkd_jax.data.own import yolo


@pytest.fixture
def folder(tmp_path):
  return own_folders.write_yolo(tmp_path, range(3))


def _load(source, role="train", skip=False, **settings):
  splits = yolo.find(source)
  files = yolo.read(splits, dict.fromkeys(splits, source), skip, 10**6)[role]
  return load_annotations(files.json, files.images, **settings)


def _label(folder, number, text):
  (folder / "labels" / "train" / f"{number}.txt").write_text(text)


def test_fractions_of_centre_and_size_become_corners_in_pixels(folder):
  _label(folder, 1, "1 0.5 0.5 0.25 0.5\n\n2.0 0.25 0.25 .5 5e-1 \n")
  found = _load(folder)
  # 64 x 32: the centre (32, 16), the size 16 x 16.
  np.testing.assert_array_equal(found.images[1].boxes, [[24, 8, 40, 24], [0, 0, 32, 16]])
  assert found.images[1].classes.tolist() == [1, 2]
  assert found.class_names == own_folders.NAMES
  assert found.images[1].filename == "images/train/1.png"


def test_an_image_without_labels_or_with_empty_ones_has_no_objects(folder):
  _label(folder, 1, "")
  found = _load(folder)
  assert [len(image.boxes) for image in found.images] == [2, 0, 0]
  assert found.notes == {"images without a file of labels, taken as without objects": 1}


def test_polygons_are_kept_with_the_box_around_them(folder):
  _label(folder, 0, "2 0.25 0.5 0.75 0.25 0.5 0.875\n")
  found = _load(folder)
  np.testing.assert_array_equal(found.images[0].boxes, [[16, 8, 48, 28]])
  np.testing.assert_array_equal(found.images[0].polygons[0][0], [[16, 16], [48, 8], [32, 28]])
  assert found.has_polygons


def test_keypoints_behind_the_box_are_left_out(folder):
  with (folder / "data.yaml").open("a") as file:
    file.write("kpt_shape: [2, 3]\n")
  _label(folder, 0, "2 0.5 0.5 0.25 0.5 0.1 0.1 2 0.2 0.2 1\n")
  np.testing.assert_array_equal(_load(folder).images[0].boxes, [[24, 8, 40, 24]])


def test_all_bad_lines_are_said_at_once_with_their_numbers(folder):
  lines = (
    "3 0.5 0.5 0.1 0.1",
    "-1 0.5 0.5 0.1 0.1",
    "0.5 0.5 0.5 0.1 0.1",
    "cat 0.5 0.5 0.1 0.1",
    "0 0.5 0.5 0.1",
    "0 0.5 0.5 0.1 0.1 0.9",
    "0 320 240 20 20",
    "0 0.5 0.5 nan 0.1",
    "0 0.5 0.5 0 0.1",
    "0 0.9 0.5 0.5 0.1",
    "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4",
  )
  _label(folder, 1, "\n".join(lines))
  with pytest.raises(ValueError, match="has 11 problems") as raised:
    _load(folder)
  for text in (
    "1.txt, line 1: '3 0.5 0.5 0.1 0.1' has the class 3, expected one from 0 to 2",
    "line 2: '-1 0.5 0.5 0.1 0.1' has the class -1",
    "line 3: '0.5 0.5 0.5 0.1 0.1' has the class 0.5",
    "line 4: 'cat 0.5 0.5 0.1 0.1' has something that is no number",
    "line 5: '0 0.5 0.5 0.1' has 4 numbers, expected a class and a box (5)",
    "line 6: '0 0.5 0.5 0.1 0.1 0.9' has 6 numbers: predictions have a score",
    "line 7: '0 320 240 20 20' has a number beyond 2, expected fractions",
    "line 8: '0 0.5 0.5 nan 0.1' has a number beyond 2",
    "line 9: bbox [32, 14.4, 0, 3.2] has size 0 x 3.2",
    "line 10: bbox [41.6, 14.4, 32, 3.2] ([x, y, width, height]) reaches 9.6 pixels out",
    "line 11: '0 0.1 0.1 0.2 0.2 0.3 0.3 0.4' has 8 numbers",
  ):
    assert text in str(raised.value), text


def test_a_list_of_images_may_have_one_twice_and_one_that_is_not_there(folder):
  (folder / "train.txt").write_text("images/train/1.png\n./images/train/1.png\n\n")
  yaml = folder / "data.yaml"
  yaml.write_text("train: train.txt\nnc: 3\nnames: [cat, dog, kite]\n")
  found = _load(yaml)
  assert [image.filename for image in found.images] == ["images/train/1.png"]
  assert found.notes == {"images that are listed more than once, taken once": 1}
  (folder / "train.txt").write_text("images/train/1.png\nimages/train/9.png\n")
  with pytest.raises(ValueError, match=r"data\.yaml: Cannot read .*images/train/9\.png"):
    _load(yaml)


def test_roboflows_paths_are_found_beside_the_file(tmp_path):
  for role, number in {"train": 0, "valid": 1}.items():
    own_folders.write_images(tmp_path / role / "images", [number])
    (tmp_path / role / "labels").mkdir()
    (tmp_path / role / "labels" / f"{number}.txt").write_text(own_folders.yolo_lines(number))
  (tmp_path / "data.yaml").write_text(
    "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    "nc: 3\nnames: ['cat', 'dog', 'kite']\n"
  )
  assert _load(tmp_path).images[0].filename == "train/images/0.png"
  np.testing.assert_array_equal(_load(tmp_path, "validation").images[0].boxes, [[8, 8, 24, 24]])


def test_folders_and_a_file_of_names_will_do(folder):
  (folder / "data.yaml").unlink()
  with pytest.raises(ValueError, match=r"no file says the names of the classes"):
    yolo.find(folder)
  (folder / "classes.txt").write_text("cat\ndog\nkite\n")
  own_folders.write_images(folder / "images" / "val", [7])
  (folder / "labels" / "val").mkdir()
  (folder / "labels" / "val" / "7.txt").write_text(own_folders.yolo_lines(7))
  assert len(_load(folder).images) == 3
  assert _load(folder, "validation").images[0].classes.tolist() == [2]


def test_labels_may_be_beside_the_images(tmp_path):
  own_folders.write_images(tmp_path, [1])
  (tmp_path / "1.txt").write_text(own_folders.yolo_lines(1))
  (tmp_path / "obj.names").write_text("cat\ndog\nkite\n")
  np.testing.assert_array_equal(_load(tmp_path).images[0].boxes, [[8, 8, 24, 24]])


def test_one_file_of_labels_is_not_for_two_images(folder):
  (folder / "images" / "train" / "0.jpg").write_bytes(own_folders.png(0))
  with pytest.raises(ValueError, match=r"0\.txt is for two images, 0\.jpg and 0\.png: keep one"):
    _load(folder)


def test_an_image_that_cannot_be_read_is_a_problem_or_left_out(folder):
  (folder / "images" / "train" / "0.png").write_bytes(b"\x89PNG")
  with pytest.raises(ValueError, match=r"data\.yaml: Cannot decode .*0\.png"):
    _load(folder)
  found = _load(folder, skip=True)
  assert len(found.images) == 2
  assert found.notes["images that cannot be read left out"] == 1


@pytest.mark.parametrize(
  "content, message",
  [
    ("train: images/train\nnames: [cat]\nnc: 2", "'nc' is 2, but there are 1 'names'"),
    ("train: images/train\nnames: {0: cat, 2: dog}", r"has the numbers \[0, 2\], expected 0 to 1"),
    ("train: images/train\nnames: cat", "'names' is 'cat', expected a list"),
    ("train: elsewhere\nnames: [cat]", "names 'elsewhere', which is not there. Looked for"),
    ("train: labels\nnames: [cat]", "names 'labels', but .*labels has no images"),
    ("train: 3\nnames: [cat]", "'train' is 3, expected a path"),
    ("val: images/train\nnames: [cat]", "has no 'train'"),
    ("train: [\nnames", "is not valid YAML at line"),
    ("train: !!python/object/apply:os.getcwd []", "is not valid YAML at line 1"),
  ],
)
def test_a_wrong_data_yaml_is_named(folder, content, message):
  file = folder / "data.yaml"
  file.write_text(content)
  with pytest.raises((ValueError, FileNotFoundError), match=rf"data\.yaml.*{message}"):
    _load(file)


def test_labels_that_are_nowhere_are_asked_for(folder):
  (folder / "labels").rename(folder / "other")
  with pytest.raises(ValueError, match=r"none of the 3 images has a file of labels; that of"):
    _load(folder)
