"""Box steps and image steps with records of two data sets."""

import types

import numpy as np
import pytest

from rkd_jax.configs import common
from rkd_jax.inputs import plan
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.vocabulary.vocabulary import training_vocabulary


def _source(name, class_names, base=(), image_counts=None):
  return types.SimpleNamespace(
    name=name, class_names=class_names, base=base, image_counts=image_counts
  )


@pytest.fixture
def config(tmp_path):
  c = common.detector()
  c.model.classifier.embedding_dim = 2
  c.class_embeddings = _embeddings(tmp_path / "classes.npz", ("cat", "dog"))
  return c


def _embeddings(path, names):
  rows = np.arange(2 * len(names), dtype=np.float32).reshape(-1, 2) + 1
  class_embeddings.save(path, names, class_embeddings.TEMPLATE, rows)
  return str(path)


def test_image_steps_may_read_another_data_set():
  data = common.detector_data()
  data.update(dir="a", name="lvis_ovd/rkd")
  assert plan.place(data, "image") == ("a", "lvis_ovd/rkd", "train")
  data.image.name = "imagenet_lvis/rkd"
  assert plan.place(data, "image") == ("a", "imagenet_lvis/rkd", "train")
  data.image.dir = "b"
  assert plan.place(data, "image") == ("b", "imagenet_lvis/rkd", "train")
  assert plan.place(data, "box") == ("a", "lvis_ovd/rkd", "train")
  assert plan.place(data, "eval") == ("a", "lvis_ovd/rkd", "validation")


@pytest.mark.parametrize("order", [("box", "image"), ("image", "box")])
def test_counts_and_base_classes_are_those_of_the_boxes(config, order):
  found = {
    "box": _source("boxes/train", ("cat", "dog"), base=("dog",), image_counts=(3, 5)),
    "image": _source("images/train", ("cat", "dog"), base=("cat", "dog")),
  }
  result = training_vocabulary(config, {kind: found[kind] for kind in order})
  assert result.has_boxes.tolist() == [False, True]
  assert result.image_counts.tolist() == [3, 5]
  assert result.image_embeddings is None


@pytest.mark.parametrize(
  "names, message",
  [
    (("dog", "cat"), r"boxes/train and images/train.*class 0 is 'cat' in the one and 'dog' in the"),
    (("cat",), r"class 1 is 'dog' in the one and missing in the other \(2 and 1 classes\)"),
    (("cat", "dog", "emu"), r"class 2 is missing in the one and 'emu' in the other"),
  ],
)
def test_other_classes_are_refused(config, names, message):
  sources = {"box": _source("boxes/train", ("cat", "dog")), "image": _source("images/train", names)}
  with pytest.raises(ValueError, match=message):
    training_vocabulary(config, sources)


def test_image_steps_may_have_classes_of_their_own(config, tmp_path):
  names = ("emu", "fox", "gnu")
  sources = {"box": _source("boxes/train", ("cat", "dog")), "image": _source("images/train", names)}
  config.data.image.class_embeddings = _embeddings(tmp_path / "own.npz", names)
  result = training_vocabulary(config, sources)
  assert result.embeddings.shape == (2, 2)
  assert result.image_embeddings.tolist() == [[1, 2], [3, 4], [5, 6]]
  config.data.image.class_embeddings = config.class_embeddings
  with pytest.raises(ValueError, match=r"classes\.npz"):
    training_vocabulary(config, sources)
  config.data.image.class_embeddings = "nowhere.npz"
  with pytest.raises(ValueError, match=r"data\.image\.class_embeddings: there is no file"):
    training_vocabulary(config, sources)
