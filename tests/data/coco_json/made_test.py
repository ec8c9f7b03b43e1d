"""COCO content that was made from another format."""

import numpy as np
import own_folders
import pytest

from rkd_jax.data.coco_json.annotations import load_annotations
from rkd_jax.data.coco_json.made import Maker


@pytest.fixture
def maker(tmp_path):
  own_folders.write_images(tmp_path / "images", [0])
  return Maker(tmp_path / "list.txt", tmp_path)


def test_content_is_read_like_a_file(maker, tmp_path):
  assert maker.add_image(tmp_path / "images" / "0.png", "list.txt") == (64, 32)
  maker.add_object("line 7", 1, (2, 3, 10, 20.5), (2, 3, 10, 3, 10, 20.5))
  maker.add_object("line 8", 0, (0, 0, 64, 32), crowd=True)
  made = maker.make(("cat", "dog"))
  found = load_annotations(made, tmp_path)
  assert found.class_names == ("cat", "dog")
  (image,) = found.images
  assert image.path == tmp_path / "images" / "0.png" and image.filename == "images/0.png"
  np.testing.assert_array_equal(image.boxes, [[2, 3, 10, 20.5], [0, 0, 64, 32]])
  assert image.classes.tolist() == [1, 0] and image.is_crowd.tolist() == [False, True]
  assert maker.make(("cat", "dog")).checksum == made.checksum
  assert maker.make(("cat", "fox")).checksum != made.checksum


def test_problems_name_the_places_that_content_was_made_from(maker, tmp_path):
  maker.add_image(tmp_path / "images" / "0.png", "list.txt", (64, 32))
  maker.add_image(tmp_path / "images" / "9.png", "list.txt, line 2")
  maker.add_object("line 7", 0, (2, 3, 2, 20))
  maker.add_object("line 8", 0, (float("nan"), 3, 9, 20))
  maker.add_object("line 9", 0, (0, 3, 1e12, 20))
  with pytest.raises(ValueError, match="has 4 problems") as raised:
    load_annotations(maker.make(("cat",)), tmp_path)
  for text in (
    "list.txt, line 2: Cannot read",
    "line 7: bbox [2, 3, 0, 17] has size 0 x 17",
    "line 8: a coordinate is no finite number",
    "line 9: a coordinate is no finite number",
  ):
    assert text in str(raised.value), text


def test_a_bad_image_is_left_out_if_asked_to_but_a_missing_one_is_not(tmp_path):
  (tmp_path / "a.png").write_bytes(b"no image")
  maker = Maker(tmp_path, tmp_path, skip_bad_images=True)
  assert maker.add_image(tmp_path / "a.png", "x") is None
  assert not maker.problems and maker.notes["images that cannot be read left out"] == 1
  assert maker.add_image(tmp_path / "b.png", "x") is None
  assert maker.problems
