import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from rkd_jax.configs import common
from rkd_jax.models.backbones.clip_resnet import ClipResNet
from rkd_jax.models.clip.model import Clip, ClipConfig
from rkd_jax.models.clip.preprocess import normalize
from rkd_jax.models.detector import rcnn

CLIP = ClipConfig(
  embed_dim=8,
  image_resolution=32,
  vision_layers=(2, 1, 1),
  vision_width=8,
  vision_heads=1,
  context_length=4,
  vocab_size=5,
  transformer_width=8,
  transformer_heads=1,
  transformer_layers=1,
)


def model_config(**backbone) -> ml_collections.ConfigDict:
  """A small detector with the trunk of CLIP; `backbone` overrides single settings."""
  model = common.model()
  model.pixel_mean, model.pixel_std = common.CLIP_PIXEL_MEAN, common.CLIP_PIXEL_STD
  model.backbone.update(kind="clip_resnet", stage_blocks=(2, 1), width=8, **backbone)
  return model


@pytest.fixture(scope="module")
def variables():
  """A CLIP whose affine and batch statistics are nothing special (as if trained)."""

  def init():
    images, tokens = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 4), jnp.int32)
    return Clip(CLIP).init(jax.random.key(0), images, tokens)

  abstract = jax.eval_shape(init)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype("f"), abstract["params"])
  statistics = jax.tree.map(
    lambda x: rng.uniform(0.5, 1.5, x.shape).astype("f"), abstract["batch_stats"]
  )
  return {"params": params, "batch_stats": statistics}


def test_trunk_is_that_of_the_image_tower(variables):
  """Stage by stage what the tower computes for the same pixels, from image to last common map."""
  images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
  _, seen = Clip(CLIP).apply(
    variables, normalize(images), method=Clip.encode_image, capture_intermediates=True
  )
  seen = seen["intermediates"]["visual"]
  config = model_config()
  params = ClipResNet.from_clip(config, CLIP, variables, "CLIP")
  trunk = ClipResNet(stage_blocks=(2, 1), width=8)
  pixels = (images - np.array(config.pixel_mean)) / np.array(config.pixel_std)
  maps = trunk.apply({"params": params}, pixels.astype("f"))
  assert [x.shape for x in maps] == [(2, 8, 8, 32), (2, 4, 4, 64)]
  assert (trunk.strides, trunk.channels) == ((4, 8), (32, 64))
  for found, block in zip(maps, ("layer1_1", "layer2_0"), strict=True):
    (expected,) = seen[block]["__call__"]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_parameters_are_those_a_detector_needs(variables):
  """Every parameter of the detector's backbone comes from CLIP, and nothing else does."""
  config = common.detector()
  config.model = model_config()
  config.model.box_head.update(kind="fc", layers=1, width=8)
  config.model.rpn.channels = 8
  config.model.roi.resolution = 3
  needed = rcnn.abstract_params(config)
  given = ClipResNet.from_clip(config.model, CLIP, variables, "CLIP")
  shapes = jax.tree.map(lambda x: x.shape, given)
  assert shapes == jax.tree.map(lambda x: x.shape, needed["backbone"])


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(stage_blocks=(1, 1)), r"stage_blocks=\(2, 1\), width=8, but .* stage_blocks=\(1, 1\)"),
    (dict(stage_blocks=(2, 1, 1, 1)), r"has the tower .*stage_blocks=\(2, 1, 1\)"),
    (dict(width=16), r"width=8, but .*width=16"),
  ],
)
def test_another_architecture_is_refused(variables, change, message):
  config = model_config()
  config.backbone.update(change)
  with pytest.raises(ValueError, match=message):
    ClipResNet.from_clip(config, CLIP, variables, "runs/clip")


def test_another_pixel_normalisation_is_refused(variables):
  config = model_config()
  config.pixel_std = (1.0, 1.0, 1.0)
  with pytest.raises(ValueError, match=r"runs/clip was trained on pixels with mean \[122\.77"):
    ClipResNet.from_clip(config, CLIP, variables, "runs/clip")


def test_a_vision_transformer_is_refused(variables):
  vit = ClipConfig(vision_layers=2, vision_patch_size=16)
  with pytest.raises(ValueError, match="vision transformer"):
    ClipResNet.from_clip(model_config(), vit, variables, "runs/clip")
