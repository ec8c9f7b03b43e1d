"""CLIP's ResNet: three-convolution stem, anti-aliased striding, attention pooling.

Differences from the usual ResNet: every stride but the stem's first is an average pool (before the
last 1×1 convolution of a block, and before the 1×1 of its shortcut), and the spatial mean attends
over the last feature map instead of simply being taken.
"""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.ops.padding import Extents, zero_beyond
from rkd_jax.structures import Arr


def _conv3x3(features: int, dtype: jnp.dtype, name: str, stride: int = 1) -> nn.Conv:
  # Explicit padding: "SAME" would shift a strided convolution by one pixel.
  pad = ((1, 1), (1, 1))
  return nn.Conv(
    features, (3, 3), (stride, stride), padding=pad, use_bias=False, dtype=dtype, name=name
  )


def _conv1x1(features: int, dtype: jnp.dtype, name: str) -> nn.Conv:
  return nn.Conv(features, (1, 1), use_bias=False, dtype=dtype, name=name)


def _pool(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b h2 w2 c"]:
  window = (stride, stride)
  return x if stride == 1 else nn.avg_pool(x, window, window)


# name -> normalisation layer; keywords are those of nn.BatchNorm.
Norm = Callable[..., nn.Module]


class Bottleneck(nn.Module):
  """1×1, 3×3, average pool, 1×1 to 4 × `features`; no ReLU between the last norm and the sum."""

  features: int
  norm: Norm
  stride: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], extents: Extents | None, input_stride: int
  ) -> Float[Array, "b h2 w2 c2"]:
    """`input_stride` is that of `x`, in pixels of the `extents`."""

    def crop(x):
      return zero_beyond(x, extents, input_stride)

    out = 4 * self.features
    y = _conv1x1(self.features, self.dtype, "conv1")(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = _conv3x3(self.features, self.dtype, "conv2")(crop(y))
    y = nn.relu(self.norm(name="bn2")(y))
    y = _conv1x1(out, self.dtype, "conv3")(_pool(crop(y), self.stride))
    y = self.norm(name="bn3", scale_init=nn.initializers.zeros)(y)
    if self.stride > 1 or x.shape[-1] != out:
      x = _conv1x1(out, self.dtype, "downsample_conv")(_pool(crop(x), self.stride))
      x = self.norm(name="downsample_bn")(x)
    return nn.relu(x + y)


def trunk(
  images: Float[Arr, "b h w 3"],
  layers: Sequence[int],
  width: int,
  norm: Norm,
  dtype: jnp.dtype,
  extents: Extents | None = None,
  remat: bool = False,
) -> list[Float[Array, "b _h _w _c"]]:
  """The map leaving each stage; to be called inside the compact method of a module, which then
  holds the layers under the names of the published checkpoints.

  `layers` gives the blocks per stage; the map of stage i (from 0) has stride 2^(i + 2) and
  width · 2^(i + 2) channels.  By default images fill the canvas, as CLIP's do.  With `remat` a
  gradient keeps what goes into each block, and computes the rest again.
  """
  x = zero_beyond(images.astype(dtype), extents, 1)
  for i, features in enumerate((width // 2, width // 2, width), start=1):
    x = _conv3x3(features, dtype, f"conv{i}", stride=2 if i == 1 else 1)(x)
    x = zero_beyond(nn.relu(norm(name=f"bn{i}")(x)), extents, 2)
  x = _pool(x, 2)
  kind = nn.remat(Bottleneck, static_argnums=3) if remat else Bottleneck
  maps = []
  for stage, blocks in enumerate(layers):
    for block in range(blocks):
      stride = 2 if stage > 0 and block == 0 else 1
      name = f"layer{stage + 1}_{block}"
      bottleneck = kind(width * 2**stage, norm, stride, dtype, name=name)
      x = bottleneck(x, extents, 2 ** (stage + 2) // stride)
    maps.append(x)
  return maps


class AttentionPool(nn.Module):
  """One attention query, the spatial mean, over itself and all positions of the map."""

  heads: int
  output_dim: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    batch, height, width, channels = x.shape
    init = nn.initializers.normal(channels**-0.5)
    tokens = x.reshape(batch, height * width, channels)
    tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
    positions = self.param("positional_embedding", init, (height * width + 1, channels))
    tokens = tokens + positions.astype(self.dtype)

    def project(name: str, rows: Float[Array, "b t c"]) -> Float[Array, "b t n e"]:
      rows = nn.Dense(channels, kernel_init=init, dtype=self.dtype, name=name)(rows)
      return rows.reshape(batch, -1, self.heads, channels // self.heads)

    mixed = jax.nn.dot_product_attention(
      project("q_proj", tokens[:, :1]), project("k_proj", tokens), project("v_proj", tokens)
    )
    return nn.Dense(self.output_dim, kernel_init=init, dtype=self.dtype, name="c_proj")(
      mixed.reshape(batch, channels)
    )
