"""Rows for the classes of data sets; box steps and image steps with records of two of them."""

import types

import numpy as np
import pytest

from rkd_jax.configs import common
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.vocabulary.vocabulary import load_vocabulary, training_vocabulary


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


def test_rows_are_looked_up_by_name(config, tmp_path):
  """A file may have more classes than the data set, in any order; every class needs a row."""
  config.class_embeddings = _embeddings(tmp_path / "more.npz", ("dog", "emu", "cat"))
  source = _source("boxes/train", ("cat", "dog"))
  assert load_vocabulary(config, source).embeddings.tolist() == [[5, 6], [1, 2]]
  with pytest.raises(ValueError, match=r"more\.npz has no class 'dogs'.*nearest are 'dog'"):
    load_vocabulary(config, _source("boxes/train", ("cat", "dogs")))


def test_a_bare_matrix_has_the_classes_in_their_order(config, tmp_path):
  config.class_embeddings = str(tmp_path / "bare.npy")
  np.save(config.class_embeddings, np.array([[1, 2], [3, 4]], np.float32))
  rows = load_vocabulary(config, _source("boxes/train", ("cat", "dog"))).embeddings
  assert rows.tolist() == [[1, 2], [3, 4]]
  with pytest.raises(ValueError, match="2 rows for 1 class names"):
    load_vocabulary(config, _source("boxes/train", ("cat",)))
  config.model.classifier.embedding_dim = 3
  with pytest.raises(ValueError, match=r"2 wide, model\.classifier\.embedding_dim is 3"):
    load_vocabulary(config, _source("boxes/train", ("cat", "dog")))


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


def test_classes_with_pseudo_labels_alone_are_told(config, tmp_path):
  """Of box batches that ask for them, above their bound."""
  names = ("cat", "dog", "emu", "fox")
  config.class_embeddings = _embeddings(tmp_path / "four.npz", names)
  source = types.SimpleNamespace(
    **vars(_source("boxes/train", names, base=("dog",))),
    results=types.SimpleNamespace(
      num_pseudo_boxes=np.array([0, 2, 1]),
      at=lambda row: {
        "pseudo_boxes/labels": np.array([[], [1, 2], [3]][row], int),
        "pseudo_boxes/scores": np.array([[], [0.9, 0.8], [0.3]][row]),
      },
    ),
  )
  assert training_vocabulary(config, {"box": source}).has_pseudo_labels is None
  config.data.box.pseudo_labels = 2
  found = training_vocabulary(config, {"box": source})
  assert found.has_pseudo_labels.tolist() == [False, False, True, True]
  assert found.has_boxes.tolist() == [False, True, False, False]
  config.data.box.pseudo_label_score = 0.3
  found = training_vocabulary(config, {"box": source})
  assert found.has_pseudo_labels.tolist() == [False, False, True, False]


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
