import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.models.backbones.fpn import FPN, upsample


def random(shape):
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def features(height, width, stages=(2, 3, 4, 5)):
  return [random((1, height // 2**i, width // 2**i, 2 + i)) for i in stages]


def shapes(channels, maps, strides=(4, 8, 16, 32)):
  return jax.eval_shape(FPN(strides, channels).init_with_output, jax.random.key(0), maps)


def variables(channels, maps):
  """Random biases too: the initial zeros would hide what they reach."""
  return jax.tree.map(lambda x: random(x.shape), shapes(channels, maps)[1])


def test_names_and_shapes():
  maps, params = shapes(8, features(64, 96))
  assert [m.shape for m in maps] == [
    (1, 16, 24, 8),
    (1, 8, 12, 8),
    (1, 4, 6, 8),
    (1, 2, 3, 8),
    (1, 1, 2, 8),
  ]
  assert jax.tree.map(lambda x: x.shape, params["params"]) == {
    **{f"lateral{i}": {"kernel": (1, 1, 2 + i, 8), "bias": (8,)} for i in (2, 3, 4, 5)},
    **{f"output{i}": {"kernel": (3, 3, 8, 8), "bias": (8,)} for i in (2, 3, 4, 5)},
  }


def test_by_hand():
  """One channel; identity laterals, and outputs that sum the 3x3 neighbourhood."""
  maps = [jnp.zeros((1, 4, 4, 1)), jnp.array([[1.0, 2], [3, 4]])[None, :, :, None]]
  params = {}
  for i in (2, 3):
    params[f"lateral{i}"] = {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}
    params[f"output{i}"] = {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.full(1, 0.5)}
  p2, p3, p4 = FPN((4, 8), channels=1).apply({"params": params}, maps)
  np.testing.assert_allclose(p3[0, :, :, 0], np.full((2, 2), 10.5))
  # p2 sees [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]].
  np.testing.assert_allclose(p2[0, 0, :, 0], [4.5, 8.5, 10.5, 8.5])
  np.testing.assert_allclose(p2[0, 1, :, 0], [10.5, 18.5, 21.5, 16.5])
  np.testing.assert_allclose(p4[0, :, :, 0], [[10.5]])


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_upsample_repeats(platform, dtype):
  x = jnp.asarray(random((2, 3, 5, 4)), dtype)
  upstream = jnp.asarray(random((2, 6, 10, 4)), "float32")
  up, gradient = jax.vjp(compiled_for(upsample, Target(platform)), x)
  np.testing.assert_array_equal(up, np.repeat(np.repeat(np.asarray(x), 2, axis=1), 2, axis=2))
  (found,) = gradient(upstream.astype(dtype))
  expected = upstream.reshape(2, 3, 2, 5, 2, 4).sum((2, 4))
  rough = {"float32": 1e-6, "bfloat16": 2e-2}[dtype]
  np.testing.assert_allclose(found.astype("float32"), expected, rtol=rough, atol=rough)


def test_canvas_changes_nothing():
  """A 40x56 image alone equals the same image on a 96x128 canvas that is full of noise."""
  fpn = FPN((4, 8, 16, 32), channels=4)
  canvas = features(96, 128)
  extents = jnp.array([[40, 56]])
  cells = {i: (-(-40 // 2**i), -(-56 // 2**i)) for i in range(2, 7)}
  alone = [x[:, : cells[i][0], : cells[i][1]] for i, x in enumerate(canvas, 2)]
  params = variables(4, canvas)
  expected = jax.jit(fpn.apply)(params, alone)
  got = jax.jit(fpn.apply)(params, canvas, extents)
  for i, (a, b) in enumerate(zip(expected, got, strict=True), start=2):
    h, w = cells[i]
    assert a.shape[1:3] == (h, w)
    np.testing.assert_allclose(b[:, :h, :w], a, rtol=1e-5, atol=1e-4)
  # Without extents the canvas would reach the image.
  unbounded = jax.jit(fpn.apply)(params, canvas)[0][:, :10, :14]
  assert np.abs(unbounded - expected[0]).max() > 0.1


def test_fewer_stages():
  maps, _ = shapes(4, features(32, 32, stages=(3, 4)), strides=(8, 16))
  assert [m.shape[1] for m in maps] == [4, 2, 1]


def test_initialisation_is_xavier_by_fan_in():
  maps = [jnp.zeros((1, 4, 4, 32)), jnp.zeros((1, 2, 2, 64))]
  params = jax.jit(FPN((4, 8), channels=64).init)(jax.random.key(0), maps)["params"]
  for name, fan_in in (("lateral2", 32), ("output2", 9 * 64)):
    kernel = np.asarray(params[name]["kernel"])
    assert np.abs(kernel).max() <= np.sqrt(3 / fan_in)
    assert kernel.var() == pytest.approx(1 / fan_in, rel=0.1)
    assert not params[name]["bias"].any()


@pytest.mark.parametrize("strides", [(4, 16), (8, 4), (6, 12)])
def test_refuses_other_strides(strides):
  with pytest.raises(ValueError, match="expected powers of two, each twice the one before"):
    FPN(strides).init(jax.random.key(0), [jnp.zeros((1, 4, 4, 1))] * 2)
