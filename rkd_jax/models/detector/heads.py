"""From pooled RoI features to a vector, a box and a mask per RoI.

A box head is given every `bin_step`-th bin along both axes.  Boxes and masks are one per RoI,
whatever its class (He et al. 2017, Mask R-CNN).
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from rkd_jax.machine.target import in_parts_on_cpu
from rkd_jax.models.backbones.layers import MSRA_INIT, XAVIER_INIT, Conv, relu, torch_dense
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
  remat: bool = False

  bin_step: ClassVar[int] = 2

  @nn.compact
  def __call__(self, pooled: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
    settings = (self.norm, self.expansion, self.dtype)
    stage = ResStage(self.blocks, self.width, 1, *settings, remat=self.remat, name="stage")
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
    for i in range(self.layers):
      dense = nn.Dense(self.width, kernel_init=XAVIER_INIT, dtype=self.dtype, name=f"fc{i + 1}")
      x = relu(dense(x))
    return x


class BoxPredictor(nn.Module):
  """Deltas (dx, dy, dw, dh) with weights (10, 10, 5, 5), one box for all classes."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n 4"]:
    width = x.shape[-1]
    x = relu(torch_dense(width, width, self.dtype, "fc1")(x))
    # A near-zero last layer: the first predictions are the proposals themselves.
    last = nn.Dense(4, kernel_init=nn.initializers.normal(0.001), dtype=self.dtype, name="fc2")
    return last(x).astype(jnp.float32)


class Deconv(nn.Module):
  """Transposed convolution 2x2 with stride 2, as one matrix product.

  Windows do not overlap, so each cell becomes a 2x2 patch on its own:
  `out[2i + a, 2j + b] = x[i, j] @ kernel[a, b] + bias`.  The kernel is [2, 2, in, out]; it is
  torch's `ConvTranspose2d` weight [in, out, 2, 2] with its axes moved, not flipped.
  """

  channels: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 {self.channels}"]:
    n, h, w, c = x.shape
    kernel = self.param("kernel", MSRA_INIT, (2, 2, c, self.channels))
    bias = self.param("bias", nn.initializers.zeros, (self.channels,))
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    patches = jnp.einsum("nhwc,abcd->nhawbd", x, kernel)
    return patches.reshape(n, 2 * h, 2 * w, self.channels) + bias


class MaskHead(nn.Module):
  """3x3 convolutions `conv1`..., `deconv` to twice the size, `predictor` 1x1 to one channel.

  ReLU between them.  Returns float32 logits at twice the pooled resolution: 14x14 gives 28x28.
  """

  layers: int = 4
  channels: int = 256
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, pooled: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2"]:
    x = pooled
    for i in range(self.layers):
      conv = Conv(self.channels, 3, kernel_init=MSRA_INIT, dtype=self.dtype, name=f"conv{i + 1}")
      x = relu(conv(x))
    x = relu(Deconv(self.channels, self.dtype, name="deconv")(x))
    init = nn.initializers.normal(0.001)
    predictor = Conv(1, 1, kernel_init=init, dtype=self.dtype, name="predictor")
    return predictor(x)[..., 0].astype(jnp.float32)
