"""Tests of `rkd_jax.machine.conv`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.benchmark.measure import matmul_flops
from rkd_jax.machine.conv import conv
from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.train.sharding import make_mesh, shard_batch


def reference(x, kernel, stride):
  pad = (kernel.shape[0] - 1) // 2
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize("height,width", [(9, 12), (8, 5)])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients_are_those_of_the_plain_convolution(size, stride, height, width):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, height, width, 3)).astype(np.float32)
  kernel = rng.standard_normal((size, size, 3, 5)).astype(np.float32)
  expected, expected_pullback = jax.vjp(lambda *args: reference(*args, stride), x, kernel)
  y, pullback = jax.vjp(lambda *args: conv(*args, stride), x, kernel)
  np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-5)
  gradient = rng.standard_normal(y.shape).astype(np.float32)
  for ours, theirs in zip(pullback(gradient), expected_pullback(gradient), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_kernels_of_one_cell_on_accelerators(stride):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 9, 6, 3)).astype(np.float32)
  kernel = rng.standard_normal((1, 1, 3, 5)).astype(np.float32)

  def value_and_gradients(function):
    y, pullback = jax.vjp(lambda *args: function(*args, stride), x, kernel)
    return y, *pullback(jnp.cos(y))

  found = compiled_for(value_and_gradients, Target("tpu"))(conv)
  for ours, theirs in zip(found, value_and_gradients(reference), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(
  "images,height,size,bands",
  [
    (1, 70, 3, 8),
    (2, 33, 3, 4),
    (4, 70, 3, 4),
    (3, 8, 3, 8),
    (1, 9, 5, 8),
    (1, 7, 3, 1),
    (8, 9, 3, 1),
  ],
)
def test_few_images_on_a_tpu(images, height, size, bands, devices):
  """They are cut into bands of rows, whose edges are where it could go wrong."""
  rng = np.random.default_rng(0)
  mesh = make_mesh(jax.devices()[:devices])
  x = rng.standard_normal((images * devices, height, 6, 3)).astype(np.float32)
  kernel = rng.standard_normal((size, size, 3, 5)).astype(np.float32)

  def value_and_gradients(function, x, kernel):
    y, pullback = jax.vjp(lambda *args: function(*args, 1), x, kernel)
    return y, *pullback(jnp.cos(y))

  expected = value_and_gradients(reference, x, kernel)
  on_tpu = compiled_for(partial(value_and_gradients, conv), Target("tpu", devices, mesh))
  x = shard_batch(mesh, x)
  traced = str(jax.jit(on_tpu).trace(x, kernel).jaxpr)
  assert f"f32[{bands},{images}," in traced if bands > 1 else "concatenate" not in traced
  for ours, theirs in zip(jax.jit(on_tpu)(x, kernel), expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_small_maps_of_many_channels(size):
  """They have a form of their own; its border is where it could go wrong."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 5, 7, 256)).astype(np.float32)
  kernel = rng.standard_normal((size, size, 256, 256)).astype(np.float32) / 16
  expected, expected_pullback = jax.vjp(lambda *args: reference(*args, 1), x, kernel)
  y, pullback = jax.vjp(conv, x, kernel)
  np.testing.assert_allclose(y, expected, atol=1e-4)
  gradient = rng.standard_normal(y.shape).astype(np.float32)
  for ours, theirs in zip(pullback(gradient), expected_pullback(gradient), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_half_precision_sums_in_float32():
  """A sum of 4096 ones is exact; in bfloat16 it would stop at 256."""
  x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
  kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
  gradient = jax.grad(lambda kernel: conv(x, kernel).astype(jnp.float32).sum())(kernel)
  assert gradient.dtype == jnp.bfloat16
  assert gradient.item() == 4096


@pytest.mark.parametrize("stride", [1, 2])
def test_a_gradient_takes_no_more_than_the_arithmetic_of_two_convolutions(stride):
  shapes = (2, 8, 8, 3), (3, 3, 3, 16)
  forward = jax.make_jaxpr(lambda *args: conv(*args, stride))(*map(jnp.zeros, shapes))
  both = jax.make_jaxpr(jax.grad(lambda *args: conv(*args, stride).sum(), (0, 1)))(
    *map(jnp.zeros, shapes)
  )
  assert matmul_flops(both) == 3 * matmul_flops(forward)
