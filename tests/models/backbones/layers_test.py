"""Norms and pooling of the trunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.models.backbones import layers
from rkd_jax.models.backbones.layers import FrozenBatchNorm, normalize

KEY = jax.random.key(0)


def test_frozen_batch_norm_is_the_formula_and_has_no_gradient():
  x = np.random.default_rng(0).normal(size=(1, 2, 2, 2)).astype(np.float32)
  params = {
    "scale": np.array([2.0, 0.5], "f"),
    "bias": np.array([1.0, -1.0], "f"),
    "mean": np.array([0.3, -0.2], "f"),
    "var": np.array([4.0, 1e-6], "f"),
  }
  expected = (x - params["mean"]) / np.sqrt(params["var"] + 1e-5) * params["scale"]
  output = FrozenBatchNorm().apply({"params": params}, x)
  np.testing.assert_allclose(output, expected + params["bias"], rtol=1e-4, atol=1e-4)

  def total(params, x):
    return jnp.sum(FrozenBatchNorm().apply({"params": params}, x))

  of_params, of_x = jax.jit(jax.grad(total, argnums=(0, 1)))(params, x)
  assert all(np.all(g == 0) for g in jax.tree.leaves(of_params))
  assert np.abs(of_x).min() > 0


def test_unknown_norm():
  with pytest.raises(ValueError, match=r"model\.backbone\.norm is 'batch'"):
    normalize("batch", "norm", np.zeros((1, 2, 2, 16)))


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (1, 5)])
def test_max_pool_is_that_of_linen_with_its_gradient(shape, platform):
  max_pool = compiled_for(layers.max_pool, Target(platform))
  x = jax.random.normal(KEY, (2, *shape, 3))

  def reference(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

  np.testing.assert_array_equal(max_pool(x), reference(x))
  gradients = [jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x) for f in (max_pool, reference)]
  np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu_is_that_of_jax_with_its_gradient(dtype, platform):
  x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.inf], dtype)
  upstream = jnp.array([1.0, 2, 3, 4, 5, 6], dtype)
  results = []
  for function in (layers.relu, jax.nn.relu):

    def both(x, function=function):
      y, gradient = jax.vjp(function, x)
      return y, *gradient(upstream)

    results.append(compiled_for(both, Target(platform))(x))
  jax.tree.map(np.testing.assert_array_equal, *results)
  assert results[0][1].dtype == dtype
