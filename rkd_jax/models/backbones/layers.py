"""Layers and initialisers that the detectors' networks share.

The convolution is that of `machine.conv`; the small maps of CLIP's tower in the demo gain nothing
by it and keep `nn.Conv`.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float

from rkd_jax.machine import target
from rkd_jax.machine.conv import conv

MSRA_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Caffe2's XavierFill: uniform with variance 1 / fan_in.
XAVIER_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def torch_dense(features: int, fan_in: int, dtype: jnp.dtype, name: str) -> nn.Dense:
  """A dense layer that starts as torch's: kernel and bias uniform within +-1/sqrt(fan_in)."""
  bound = fan_in**-0.5
  return nn.Dense(
    features,
    kernel_init=nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform"),
    bias_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
    dtype=dtype,
    name=name,
  )


class Conv(nn.Module):
  """k x k with (k - 1) // 2 zeros around the image; the parameters are those of `nn.Conv`.

  At stride 1 the size stays; at stride s it is divided by s, rounded up.
  """

  features: int
  kernel_size: int
  stride: int = 1
  use_bias: bool = True
  kernel_init: Callable = nn.linear.default_kernel_init
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.features}"]:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = conv(x, kernel, self.stride)
    return y if bias is None else y + bias  # pyright: ignore[reportReturnType]


class FrozenBatchNorm(nn.Module):
  """Batch normalisation with fixed statistics, as one multiply-add.

  The four arrays are parameters so that checkpoints hold them; configs list
  them among the frozen parameters, and no gradient enters them in any case.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    mean = self.param("mean", nn.initializers.zeros, (channels,))
    var = self.param("var", nn.initializers.ones, (channels,))
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    factor, offset = jax.lax.stop_gradient((factor, bias - mean * factor))
    return x * factor.astype(x.dtype) + offset.astype(x.dtype)


def normalize(
  kind: str, name: str, x: Float[Array, "b h w c"], inside: Bool[Array, "b h w 1"] | None = None
) -> Float[Array, "b h w c"]:
  """`frozen` for published checkpoints, `group` for networks trained from scratch.

  Statistics of groups are those of the cells `inside` the image: no canvas changes them.
  """
  if kind == "frozen":
    return FrozenBatchNorm(name=name)(x)
  if kind == "group":
    mask = None if inside is None else jnp.broadcast_to(inside, x.shape)
    norm = nn.GroupNorm(num_groups=None, group_size=16, dtype=x.dtype, name=name)
    return norm(x, mask=mask)
  raise ValueError(f"model.backbone.norm is {kind!r}; expected 'frozen' or 'group'.")


@jax.custom_vjp
def relu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """max(x, 0), whose gradient asks its result where it passes.

  `jax.nn.relu` has the same derivative and keeps a mask for it; the result is kept in any case, as
  what the next layer multiplies.
  """
  return jnp.maximum(x, 0)


def _relu_forward(x):
  y = relu(x)
  return y, y


def _relu_backward(y, gradient):
  if target.current().platform == "tpu":
    # A comparison would be made in the forward pass, and its bits packed to be kept until here.
    return (gradient * jnp.sign(y),)
  return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """3x3 maximum, stride 2, padding 1; rows, then columns, but on a TPU.

  The gradient of `nn.max_pool` is a select-and-scatter: four times slower on a CPU, and of no fixed
  order on a GPU.
  """
  if target.current().platform == "tpu":
    return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
  for axis in (1, 2):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (1, 1)
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    size = (x.shape[axis] + 1) // 2
    taps = [
      jax.lax.slice_in_dim(padded, tap, tap + 2 * size - 1, stride=2, axis=axis) for tap in range(3)
    ]
    x = jnp.maximum(jnp.maximum(taps[0], taps[1]), taps[2])
  return x
