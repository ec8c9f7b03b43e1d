"""Convolution layer of the detectors, by `ops.conv`.

The small maps of CLIP's tower in the demo gain nothing by it and keep `nn.Conv`.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from rkd_jax.ops.conv import conv


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
    return y if bias is None else y + bias
