"""The challenge's files alone: the hierarchy, and labels spread along it."""

import numpy as np
import openimages_files
import pytest
from openimages_files import ANIMAL, CAR, CARNIVORE, CAT, DOG, WHEEL

from rkd_jax.data.openimages_challenge2019 import files
from rkd_jax.data.openimages_challenge2019 import openimages_challenge2019 as openimages


@pytest.fixture
def root(tmp_path):
  openimages_files.write(tmp_path)
  return tmp_path


def test_a_class_may_stand_below_several(root):
  labels = list(files.load_classes(root / openimages.CLASSES_CSV))
  ancestors = files.load_ancestors(root / openimages.HIERARCHY_JSON, labels)
  assert ancestors[DOG] == {ANIMAL, CARNIVORE} and ancestors[WHEEL] == ancestors[CAR] == set()


def test_labels_are_spread_along_the_hierarchy(root):
  labels = list(files.load_classes(root / openimages.CLASSES_CSV))
  ancestors = files.load_ancestors(root / openimages.HIERARCHY_JSON, labels)
  images, empty = files.load_images(
    root / openimages.BOXES_CSV, root / openimages.LABELS_CSV, labels, ancestors
  )
  assert empty == 1
  assert [image.name[-1] for image in images] == ["2", "3", "1"]
  cat = images[2]
  assert cat.classes.tolist() == [CAT, ANIMAL, CARNIVORE, CAR]
  np.testing.assert_allclose(cat.boxes[2], [0.25, 0.1, 0.5, 1])
  assert cat.negative == (WHEEL,)
  # Where there is no animal, there is none of its kinds.
  assert images[1].negative == (CAT, ANIMAL, CARNIVORE, DOG) and images[1].positive == ()
