"""Tests of `rkd_jax.models.backbones.kinds`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
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


def _loss(kind, blocks, remat):
  """Of parameters, and such parameters."""
  image = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
  config = _config(kind=kind, stage_blocks=(blocks, blocks))
  backbone = make_backbone(config, jnp.float32, remat)

  def loss(params):
    maps = backbone.apply({"params": params}, image, jnp.array([[64, 64], [50, 40]]))
    return sum(jnp.mean(jnp.square(x)) for x in maps)

  return loss, backbone.init(jax.random.key(1), image)["params"]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_computed_again_give_equal_gradients(kind):
  plain, again = (_loss(kind, 2, remat) for remat in (False, True))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7),
    *(jax.jit(jax.value_and_grad(loss))(params) for loss, params in (plain, again)),
  )


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_computed_again_hold_less_than_half(kind):
  def held(blocks, remat):
    """Numbers in what the derivative is made of, parameters left out."""
    loss, params = _loss(kind, blocks, remat)
    arrays = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params))
    return sum(x.size for x in arrays if x.shape[:1] == (2,))

  plain, again = (held(4, remat) - held(2, remat) for remat in (False, True))
  assert 0 < again < 0.5 * plain


def test_a_backbone_that_cannot_compute_blocks_again_says_so(monkeypatch):
  class Plain(nn.Module):
    dtype: jnp.dtype

  monkeypatch.setitem(KINDS, "plain", Plain)
  make_backbone(_config(kind="plain"), jnp.float32)
  with pytest.raises(ValueError, match=r"model\.remat: backbones of kind 'plain'"):
    make_backbone(_config(kind="plain"), jnp.float32, remat=True)


def test_unknown_kind():
  with pytest.raises(ValueError, match=r"model\.backbone\.kind is 'vgg'; expected one of resnet, "):
    make_backbone(_config(kind="vgg"), jnp.float32)
