"""The heads of the RoIs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.models.backbones.resnet import ResStage
from rkd_jax.models.detector.heads import Deconv, MaskHead, ResBoxHead

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


def test_names_and_shapes():
  logits, variables = jax.eval_shape(
    MaskHead(layers=2, channels=8).init_with_output, jax.random.key(0), jnp.zeros((3, 14, 14, 6))
  )
  assert logits.shape == (3, 28, 28)
  assert jax.tree.map(lambda x: x.shape, variables["params"]) == {
    "conv1": {"kernel": (3, 3, 6, 8), "bias": (8,)},
    "conv2": {"kernel": (3, 3, 8, 8), "bias": (8,)},
    "deconv": {"kernel": (2, 2, 8, 8), "bias": (8,)},
    "predictor": {"kernel": (1, 1, 8, 1), "bias": (1,)},
  }


def test_deconv_by_hand():
  """Each cell becomes its value times the kernel, plus the bias."""
  params = {"kernel": jnp.array([[1.0, 2], [3, 4]]).reshape(2, 2, 1, 1), "bias": jnp.array([0.5])}
  out = Deconv(1).apply({"params": params}, jnp.array([[1.0, 10]]).reshape(1, 1, 2, 1))
  np.testing.assert_allclose(out[0, :, :, 0], [[1.5, 2.5, 10.5, 20.5], [3.5, 4.5, 30.5, 40.5]])


def test_deconv_equals_transposed_convolution():
  rng = np.random.default_rng(0)
  x, kernel = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 2, 4, 6))
  x, kernel = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
  out = Deconv(6).apply({"params": {"kernel": kernel, "bias": jnp.zeros(6)}}, x)
  # With transpose_kernel lax takes the kernel of the forward convolution, [h, w, out, in].
  kernel = kernel.swapaxes(2, 3)
  expected = jax.lax.conv_transpose(x, kernel, (2, 2), "VALID", transpose_kernel=True)
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_head_by_hand():
  """Negative values end at each ReLU; the prediction itself may be negative."""
  centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
  params = {
    "conv1": {"kernel": centre, "bias": jnp.array([1.0])},
    "deconv": {"kernel": jnp.array([1.0, -1, 2, 1]).reshape(2, 2, 1, 1), "bias": jnp.zeros(1)},
    "predictor": {"kernel": -jnp.ones((1, 1, 1, 1)), "bias": jnp.array([5.0])},
  }
  pooled = jnp.array([3.0, -3]).reshape(1, 1, 2, 1)
  logits = MaskHead(layers=1, channels=1).apply({"params": params}, pooled)
  np.testing.assert_allclose(logits[0], [[1, 5, 5, 5], [-3, 1, 5, 5]])


def test_low_precision_inside_float32_outside():
  head = MaskHead(layers=1, channels=8, dtype=jnp.bfloat16)
  pooled = jnp.zeros((2, 4, 4, 8))
  run = functools.partial(head.init_with_output, capture_intermediates=True)
  logits, variables = jax.eval_shape(run, jax.random.key(0), pooled)
  assert logits.dtype == jnp.float32
  assert variables["params"]["deconv"]["kernel"].dtype == jnp.float32
  for layer in ("conv1", "deconv", "predictor"):
    assert variables["intermediates"][layer]["__call__"][0].dtype == jnp.bfloat16


def test_initialisation():
  params = jax.jit(MaskHead().init)(jax.random.key(0), jnp.zeros((1, 2, 2, 256)))["params"]
  assert params["conv4"]["kernel"].std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)
  assert params["deconv"]["kernel"].std() == pytest.approx(np.sqrt(2 / (4 * 256)), rel=0.02)
  assert params["predictor"]["kernel"].std() == pytest.approx(0.001, rel=0.2)
