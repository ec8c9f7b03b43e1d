"""Bottleneck ResNet, by default Caffe-style: the stride sits in the first 1x1 convolution.

Behaviour of the MSRA ResNet-50 that RKD starts from (stem 7x7/2, ReLU, 3x3/2
max pool with padding 1; convolutions have no bias; the normalisation is a
frozen affine map).  Depth, width and normalisation are fields, so the small
network of the demo is the same code; with `stride_in_1x1=False` it is torchvision's
variant ("v1.5"), whose stride sits in the 3x3 convolution.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.models.backbones.layers import MSRA_INIT, Conv, max_pool, normalize, relu
from rkd_jax.ops.padding import Extents, cells_inside, zero_beyond, zero_outside

_conv = functools.partial(Conv, use_bias=False, kernel_init=MSRA_INIT)


class Bottleneck(nn.Module):
  """1x1 (strided) -> 3x3 -> 1x1, with a projected shortcut where the shape changes."""

  width: int
  stride: int = 1
  norm: str = "frozen"
  expansion: int = 4
  dtype: jnp.dtype = jnp.float32
  stride_in_1x1: bool = True

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], extents: Extents | None = None, output_stride: int = 1
  ) -> Float[Array, "b h2 w2 c2"]:
    """`output_stride` is that of the result, in pixels of the `extents`."""

    def conv(y, features, kernel, stride, name, finer=1):
      y = _conv(features, kernel, stride, dtype=self.dtype, name=name)(y)
      inside = cells_inside(y, extents, output_stride // finer)
      return normalize(self.norm, f"{name}_norm", y, inside)

    out = self.expansion * self.width
    first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
    y = relu(conv(x, self.width, 1, first, "conv1", finer=second))
    y = zero_beyond(y, extents, output_stride // second)
    y = relu(conv(y, self.width, 3, second, "conv2"))
    y = conv(y, out, 1, 1, "conv3")
    if x.shape[-1] != out or self.stride != 1:
      x = conv(x, out, 1, self.stride, "shortcut")
    return relu(x + y)


class ResStage(nn.Module):
  """A stage of bottlenecks; only the first one is strided.

  With `remat` a gradient keeps what goes into each of them, and computes the rest again.
  """

  blocks: int
  width: int
  stride: int
  norm: str = "frozen"
  expansion: int = 4
  dtype: jnp.dtype = jnp.float32
  stride_in_1x1: bool = True
  remat: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], extents: Extents | None = None, output_stride: int = 1
  ) -> Float[Array, "b h2 w2 c2"]:
    kind = nn.remat(Bottleneck, static_argnums=3) if self.remat else Bottleneck
    settings = (self.norm, self.expansion, self.dtype, self.stride_in_1x1)
    for i in range(self.blocks):
      block = kind(self.width, self.stride if i == 0 else 1, *settings, name=f"block{i}")
      x = block(x, extents, output_stride)
    return x


class ResNet(nn.Module):
  """The trunk: stem and res2 ... res(n+1), whose maps it returns (a `Backbone`).

  Stage i is `width * 2**i` wide inside and `expansion` times that outside.  With `extents` (see
  `ops.padding`) no cell within them depends on the canvas; those beyond hold anything.
  """

  stage_blocks: Sequence[int]
  width: int = 64
  stem_width: int = 64
  norm: str = "frozen"
  expansion: int = 4
  dtype: jnp.dtype = jnp.float32
  stride_in_1x1: bool = True
  remat: bool = False

  @property
  def strides(self) -> tuple[int, ...]:
    return tuple(4 * 2**i for i in range(len(self.stage_blocks)))

  @property
  def channels(self) -> tuple[int, ...]:
    return tuple(self.expansion * self.width * 2**i for i in range(len(self.stage_blocks)))

  @nn.compact
  def __call__(
    self, images: Float[Array, "b h w 3"], extents: Extents | None = None
  ) -> list[Float[Array, "b _h _w _c"]]:
    stem = _conv(self.stem_width, 7, 2, dtype=self.dtype, name="stem")
    x = stem(zero_beyond(images, extents, 1))
    inside = cells_inside(x, extents, 2)
    x = relu(normalize(self.norm, "stem_norm", x, inside))
    # After the ReLU, zeros are as good as the pool's own padding of -inf.
    x = max_pool(zero_outside(x, inside))
    settings = (self.norm, self.expansion, self.dtype, self.stride_in_1x1, self.remat)
    maps = []
    for i, (blocks, stride) in enumerate(zip(self.stage_blocks, self.strides, strict=True)):
      stage = ResStage(blocks, self.width * 2**i, min(i, 1) + 1, *settings, name=f"res{i + 2}")
      x = stage(x, extents, stride)
      maps.append(x)
    return maps
