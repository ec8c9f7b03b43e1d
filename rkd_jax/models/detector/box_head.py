"""From pooled RoI features to one vector per RoI.

A head is given every `bin_step`-th bin along both axes.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.machine.parts import in_parts_on_cpu
from rkd_jax.models.backbones.layers import torch_bias, torch_kernel
from rkd_jax.models.backbones.resnet import ResStage

# RoIs that go through the last stage together on a CPU: two thirds of the memory of all together.
_PART = 64


class ResBoxHead(nn.Module):
  """The last ResNet stage on every RoI, then the spatial mean (C4 models).

  The stage's stride sits in its 1x1 convolutions, which read every second bin of a RoI: only these
  are pooled, and the stage has stride 1 here.
  """

  blocks: int
  width: int
  norm: str = "frozen"
  expansion: int = 4
  dtype: jnp.dtype = jnp.float32

  bin_step: ClassVar[int] = 2

  @nn.compact
  def __call__(self, pooled: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
    stage = ResStage(
      self.blocks, self.width, 1, self.norm, self.expansion, self.dtype, name="stage"
    )
    if self.is_initializing():
      return jnp.mean(stage(pooled), axis=(1, 2))
    stage, variables = stage.unbind()

    def head(variables, rois):
      return jnp.mean(stage.apply(variables, rois), axis=(1, 2))

    return in_parts_on_cpu(head, variables, (pooled,), _PART)


class FcBoxHead(nn.Module):
  """Fully connected layers with ReLU on the flattened RoI (FPN models)."""

  layers: int
  width: int
  dtype: jnp.dtype = jnp.float32

  bin_step: ClassVar[int] = 1

  @nn.compact
  def __call__(self, pooled: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
    x = pooled.reshape(pooled.shape[0], -1)
    # Caffe2's XavierFill: uniform with variance 1 / fan_in.
    init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
    for i in range(self.layers):
      x = nn.relu(nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name=f"fc{i + 1}")(x))
    return x


class BoxPredictor(nn.Module):
  """Deltas (dx, dy, dw, dh) with weights (10, 10, 5, 5), one box for all classes."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n 4"]:
    width = x.shape[-1]
    x = nn.Dense(
      width, kernel_init=torch_kernel, bias_init=torch_bias(width), dtype=self.dtype, name="fc1"
    )(x)
    # A near-zero last layer: the first predictions are the proposals themselves.
    x = nn.Dense(4, kernel_init=nn.initializers.normal(0.001), dtype=self.dtype, name="fc2")(
      nn.relu(x)
    )
    return x.astype(jnp.float32)
