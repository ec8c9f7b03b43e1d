import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from rkd_jax.models.backbones.resnet import Bottleneck, ResNet

KEY = jax.random.key(0)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_strides_and_widths(norm):
  """Sizes are rounded up at every stride, so odd inputs are covered."""
  model = ResNet(stage_blocks=(1, 2, 1), width=16, stem_width=32, norm=norm, expansion=2)
  features, variables = jax.eval_shape(model.init_with_output, KEY, jnp.zeros((2, 65, 96, 3)))
  assert [x.shape for x in features] == [(2, 17, 24, 32), (2, 9, 12, 64), (2, 5, 6, 128)]
  paths = traverse_util.flatten_dict(variables["params"], sep="/")
  assert not any("conv" in p and p.endswith("/bias") and "norm" not in p for p in paths)
  # The first block of a stage is projected; the others are not.
  assert "res3/block0/shortcut/kernel" in paths and "res3/block1/shortcut/kernel" not in paths


def test_resnet50_has_the_original_number_of_parameters():
  """23,508,032 with affine norms only; four arrays per frozen norm instead of two."""
  model = ResNet(stage_blocks=(3, 4, 6, 3))
  variables = jax.eval_shape(model.init, KEY, jnp.zeros((1, 64, 64, 3)))
  flat = traverse_util.flatten_dict(variables["params"])
  counted = [p.size for path, p in flat.items() if path[-1] not in ("mean", "var")]
  assert sum(counted) == 23_508_032


def test_stride_sits_in_the_first_1x1_convolution():
  """So pixels off the stride's grid have no influence at all."""
  model = Bottleneck(width=4, stride=2, expansion=2)
  x = np.random.default_rng(0).normal(size=(1, 6, 6, 4)).astype(np.float32)
  off_grid = np.ones((1, 6, 6, 1), bool)
  off_grid[:, ::2, ::2] = False
  params = jax.jit(model.init)(KEY, x)
  apply = jax.jit(model.apply)
  expected = apply(params, x)
  assert expected.shape == (1, 3, 3, 8)
  np.testing.assert_array_equal(apply(params, np.where(off_grid, 9, x)), expected)
  assert np.abs(apply(params, np.where(off_grid, x, 9)) - expected).max() > 0.1


@pytest.mark.parametrize("stride_in_1x1", [True, False])
@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_a_larger_canvas_changes_nothing(norm, stride_in_1x1):
  """Beyond the image maps are zero, at the finer stride too, and statistics do not count them."""
  model = ResNet((1, 1), width=16, stem_width=16, norm=norm, stride_in_1x1=stride_in_1x1)
  x = np.random.default_rng(0).normal(size=(1, 33, 38, 3)).astype(np.float32)
  canvas = np.full((1, 48, 64, 3), 9, np.float32)
  canvas[:, :33, :38] = x
  params = jax.jit(model.init)(KEY, x)
  # An affine map with an offset, so that nothing beyond the image is zero by itself.
  params = jax.tree.map(lambda p: p + 0.1, params)
  apply = jax.jit(model.apply)
  expected = apply(params, x)[1]
  cropped = apply(params, canvas, np.array([[33, 38]]))[1][:, :5, :5]
  np.testing.assert_allclose(cropped, expected, rtol=1e-4, atol=1e-5)


def test_stride_may_sit_in_the_3x3_convolution():
  """Then every pixel counts."""
  block = Bottleneck(width=4, stride=2, expansion=2, stride_in_1x1=False)
  y = np.random.default_rng(1).normal(size=(1, 6, 6, 4)).astype(np.float32)
  params = jax.jit(block.init)(KEY, y)
  apply = jax.jit(block.apply)
  moved = y.copy()
  moved[:, 1::2, 1::2] += 9
  assert np.abs(apply(params, moved) - apply(params, y)).max() > 0.1
