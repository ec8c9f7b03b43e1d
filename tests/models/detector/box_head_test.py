"""Tests of `rkd_jax.models.detector.box_head`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.models.backbones.resnet import ResStage
from rkd_jax.models.detector.box_head import ResBoxHead

SINGLE_DEVICE = True


@pytest.mark.parametrize("rois", [1, 64, 150])
def test_rois_in_parts_give_what_the_stage_gives_all_at_once(rois):
  pooled = jnp.asarray(np.random.default_rng(0).standard_normal((rois, 3, 3, 8)), jnp.float32)
  head = ResBoxHead(blocks=2, width=4)
  params = head.init(jax.random.key(0), pooled[:1])["params"]

  def whole(params, pooled):
    stage = ResStage(2, 4, stride=1)
    return jnp.mean(stage.apply({"params": params["stage"]}, pooled), axis=(1, 2))

  def both(function, params, pooled, gradient):
    vectors, pullback = jax.vjp(function, params, pooled)
    return vectors, pullback(gradient)

  gradient = jnp.asarray(np.random.default_rng(1).standard_normal((rois, 16)), jnp.float32)
  both = jax.jit(both, static_argnums=0)
  expected = both(whole, params, pooled, gradient)
  found = both(lambda p, x: head.apply({"params": p}, x), params, pooled, gradient)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)
