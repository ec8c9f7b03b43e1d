"""OWL-ViT: what is asked of a model of Scenic's interface, and what is said without Scenic."""

import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from rkd_jax.teachers.owl_vit import OwlVit, import_scenic
from tests import side_by_side

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
# Per token of the 2 x 2 grid: centre and size as parts of the padded square, and objectness.
BOXES = [[0.2, 0.2, 0.2, 0.2], [0.5, 0.3, 0.4, 0.4], [0.51, 0.3, 0.4, 0.4], [0.8, 0.4, 0.1, 0.2]]
OBJECTNESS = [1.0, 3.0, 2.0, -1.0]


class Module(nn.Module):
  """The methods that Scenic's module has; every answer is known, a query's token says its box."""

  body_configs: str
  objectness_head_configs: bool | None
  normalize: bool
  box_bias: str

  def load_variables(self, path):
    return {"params": {"shift": jnp.float32(0)}}

  def image_embedder(self, images, train):
    assert images.shape == (1, 8, 8, 3)
    return jnp.zeros((1, 2, 2, 5)) + images.mean()

  def box_predictor(self, *, image_features, feature_map):
    assert image_features.shape == (1, 4, 5) and feature_map.shape == (1, 2, 2, 5)
    return {"pred_boxes": jnp.array([BOXES])}

  def objectness_predictor(self, image_features):
    return {"objectness_logits": jnp.array([OBJECTNESS])}

  def text_embedder(self, text_queries, train):
    return nn.one_hot(text_queries.sum(-1) % 4, 4)

  def class_predictor(self, image_features, query_embeddings):
    return {"pred_logits": jnp.moveaxis(query_embeddings, 1, 2) * 4.0 - 2.0}


@pytest.fixture
def scenic(monkeypatch):
  """Modules of Scenic's names, with and without an objectness head."""

  def config(objectness):
    values = {
      "model": {"body": "body", "normalize": True, "box_bias": "both"},
      "dataset_configs": {"input_size": 8, "max_query_length": 16},
    }
    if objectness:
      values["model"]["objectness_head"] = True
    return lambda init_mode: ml_collections.ConfigDict(values)

  package = "scenic.projects.owl_vit"
  modules = {
    "scenic": {},
    "scenic.projects": {},
    package: {},
    f"{package}.models": {"TextZeroShotDetectionModule": Module},
    f"{package}.configs": {},
    f"{package}.configs.v1": {"get_config": config(False)},
    f"{package}.configs.v2": {"get_config": config(True)},
  }
  for name, attributes in modules.items():
    module = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def test_objectness_makes_the_proposals(scenic, tmp_path):
  """The second and third box overlap by more than half; boxes are parts of the longer side, 40."""
  boxes, scores = OwlVit(str(tmp_path), "v2").propose(IMAGE)
  np.testing.assert_allclose(boxes[0], [12, 4, 28, 20], atol=1e-5)
  np.testing.assert_allclose(boxes[1:], [[4, 4, 12, 12], [30, 12, 34, 20]], atol=1e-5)
  np.testing.assert_allclose(scores, 1 / (1 + np.exp([-3, -1, 1])), rtol=1e-6)
  assert boxes.dtype == scores.dtype == np.float32


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_each_class_gets_the_box_that_answers(scenic, tmp_path, version):
  names = ["dog", "red fox", "cat"]
  model = OwlVit(str(tmp_path), version)
  _, (boxes, scores) = model.answer(IMAGE, names)
  tokens = [model._tokenizer([f"a photo of a {name}"])[0].sum() % 4 for name in names]
  half = np.array(BOXES)[tokens] * 40
  np.testing.assert_allclose(
    boxes, np.c_[half[:, :2] - half[:, 2:] / 2, half[:, :2] + half[:, 2:] / 2], atol=1e-5
  )
  np.testing.assert_allclose(scores, 1 / (1 + np.exp(-2)), rtol=1e-6)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_calls_from_threads_use_several_devices(scenic, tmp_path, monkeypatch, version):
  images, names = [IMAGE, IMAGE[::-1], IMAGE[:20]], [("dog", "red fox"), (), ("cat", "dog")]
  model = OwlVit(str(tmp_path), version)
  expected = [model.answer(*call) for call in zip(images, names)]
  model._texts.clear()
  used = side_by_side.at_once(monkeypatch, model, "_embed_image", 3)
  found = side_by_side.run(model.answer, images, names)
  assert used == set(jax.local_devices()[:3])
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_without_an_objectness_head_the_queries_of_rkd_decide(scenic, tmp_path):
  boxes, scores = OwlVit(str(tmp_path), "v1", top=2).propose(IMAGE)
  assert len(boxes) == 2 and scores[0] == pytest.approx(1 / (1 + np.exp(-2)))


def test_the_image_is_padded_with_grey(scenic, tmp_path):
  square = OwlVit(str(tmp_path), "v1")._square(np.full((10, 40, 3), 255, np.uint8))
  np.testing.assert_allclose(square[0, :2].mean(), 1, atol=0.1)
  np.testing.assert_allclose(square[0, 3:], 128 / 255, atol=1e-6)


def test_a_missing_checkpoint_is_named(scenic):
  with pytest.raises(FileNotFoundError, match="nowhere is not there"):
    OwlVit("nowhere", "v1")


def test_without_scenic_the_message_says_how_to_get_it(monkeypatch):
  monkeypatch.delenv("SCENIC_PATH", raising=False)
  monkeypatch.setitem(sys.modules, "scenic", None)
  with pytest.raises(ImportError, match=r"git clone https://github.com/google-research/scenic"):
    import_scenic()


def test_the_package_of_the_same_name_is_not_taken_for_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "scenic", types.ModuleType("scenic"))
  with pytest.raises(ImportError, match="SCENIC_PATH"):
    import_scenic()
