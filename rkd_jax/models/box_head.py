"""From pooled RoI features to one vector per RoI.

A head is given every `bin_step`-th bin along both axes.
"""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.models.resnet import ResStage

# RoIs that go through the last stage together on a CPU.
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

    return jax.lax.platform_dependent(
      variables, pooled, cpu=functools.partial(_in_parts, head), default=head
    )


def _in_parts(head, variables, rois):
  """One part of the RoIs after the other.

  The results within a part stay in the caches, and what only the backward pass of a part needs is
  held for one part: two thirds of the memory of a training step of all RoIs together.
  """
  count = rois.shape[0]
  parts = -(-count // _PART)
  size = -(-count // parts)
  rois = jnp.pad(rois, ((0, parts * size - count), (0, 0), (0, 0), (0, 0)))
  rois = rois.reshape(parts, size, *rois.shape[1:])
  vectors = jax.lax.map(functools.partial(head, variables), rois)
  return vectors.reshape(parts * size, -1)[:count]


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
