"""Tests of `rkd_jax.models.backbones.kinds`."""

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from rkd_jax.configs import common
from rkd_jax.models.backbones.kinds import KINDS, make_backbone


def _config(**changes):
  return ml_collections.FrozenConfigDict({**common.model().backbone, "width": 16, **changes})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage_blocks", [(1, 1), (1, 2, 1)])
def test_maps_are_as_the_backbone_says(kind, stage_blocks):
  backbone = make_backbone(_config(kind=kind, stage_blocks=stage_blocks), jnp.bfloat16)
  image = jnp.zeros((1, 64, 96, 3), jnp.bfloat16)
  maps, _ = jax.eval_shape(backbone.init_with_output, jax.random.key(0), image)
  said = zip(backbone.strides, backbone.channels, strict=True)
  assert [x.shape for x in maps] == [(1, 64 // s, 96 // s, channels) for s, channels in said]
  assert len(maps) == len(stage_blocks) and maps[0].dtype == jnp.bfloat16


def test_settings_are_those_of_the_config():
  backbone = make_backbone(_config(norm="group", expansion=2), jnp.float32)
  assert (backbone.norm, backbone.expansion, backbone.width) == ("group", 2, 16)


def test_unknown_kind():
  with pytest.raises(ValueError, match=r"model\.backbone\.kind is 'vgg'; expected one of resnet, "):
    make_backbone(_config(kind="vgg"), jnp.float32)
