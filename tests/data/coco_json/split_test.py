"""A split of annotated images: what is kept of each, and images that are not what the JSON says."""

import coco_files
import numpy as np
import pytest
from PIL import Image

from rkd_jax.data.coco_json.annotations import load_annotations
from rkd_jax.data.coco_json.split import AnnotatedSplit, images_with_boxes


@pytest.fixture
def split(tmp_path):
  """The boxes of cats and red foxes."""
  coco_files.write(tmp_path)
  content = load_annotations(tmp_path / "train.json", tmp_path / "images")
  return AnnotatedSplit(content, ("cat", "red fox"), content.images, {4: ("a fox",)}, {4: (2,)})


def test_entries_hold_the_kept_objects(split):
  first, second = (entry.load() for entry in split.entries())
  assert first["object_ids"].tolist() == [1, 2, 3] and first["classes"].tolist() == [0, 2, 0]
  assert (first["height"], first["width"]) == (coco_files.HEIGHT, coco_files.WIDTH)
  assert first["image"] == coco_files.jpeg() and first["federated"] is None
  assert second["captions"] == ("a fox",) and second["labels"] == (2,)


def test_what_is_counted(split):
  assert split.num_boxes() == {"cat": 2, "red fox": 1} and split.image_counts() == [1, 0, 1, 0]
  assert split.first(1).describe("train") == [
    "train: 1 images, 1 with boxes, 0 with labels; 3 boxes of 2 classes: {'cat': 2, 'red fox': 1}"
  ]
  assert split.describe("validation")[0].startswith("validation: 2 images, 1 with boxes, 1 with l")
  found = images_with_boxes(split.content, ("zebra", "dog"))
  assert [image.image_id for image in found] == [9]


def test_an_image_must_have_the_size_of_its_boxes(split):
  path = split.images[1].path
  Image.fromarray(np.zeros((24, 33, 3), np.uint8)).save(path)
  with pytest.raises(ValueError, match=r"b\.jpg .*image id 4.* is 33 x 24 .*tions say 32 x 24"):
    list(split.entries())[1].load()
  path.unlink()
  with pytest.raises(
    ValueError, match=r"b\.jpg \(image id 4 of .*train\.json\).*check that folder"
  ):
    list(split.entries())[1].load()
