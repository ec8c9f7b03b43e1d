"""Class-agnostic mask head (He et al. 2017, Mask R-CNN): one mask per RoI, whatever its class."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from rkd_jax.models.backbones.layers import MSRA_INIT, Conv


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
      x = nn.relu(conv(x))
    x = nn.relu(Deconv(self.channels, self.dtype, name="deconv")(x))
    predictor = Conv(
      1, 1, kernel_init=nn.initializers.normal(0.001), dtype=self.dtype, name="predictor"
    )
    return predictor(x)[..., 0].astype(jnp.float32)
