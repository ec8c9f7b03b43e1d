"""ViT-B/32 and RN50 at full size against the original, from weights that a formula makes."""

import jax
import numpy as np
import openai_clip
import pytest
from openai_clip import Weights, standard_normal

from rkd_jax.models.clip.model import Clip
from rkd_jax.weights.clip import Settings, config_from_torch, params_from_torch

SINGLE_DEVICE = True
GOLDEN = np.load(openai_clip.GOLDEN)


@pytest.mark.parametrize(
  "name", ["clip_vit_b32", pytest.param("clip_rn50", marks=pytest.mark.full)]
)
def test_embeddings_equal_the_original(name):
  weights = Weights(name)
  config = config_from_torch(weights, Settings())
  assert config == weights.config
  size = config.image_resolution
  images = standard_normal(f"input:{name}/image", (3, 3, size, size)).transpose(0, 2, 3, 1)
  apply = jax.jit(lambda variables: Clip(config).apply(variables, images, GOLDEN["text_tokens"]))
  image, text, _ = apply(params_from_torch(weights, config))
  for actual, kind in ((image, "image_embedding"), (text, "text_embedding")):
    expected = GOLDEN[f"{name}/{kind}"]
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["clip_vit_b32", "clip_rn50"])
def test_names_and_shapes_are_the_published_ones(name):
  weights = Weights(name)
  assert openai_clip.shapes(weights.config) == weights.shapes()
