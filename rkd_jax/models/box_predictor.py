"""Class-agnostic box regression: a two-layer MLP on the shared RoI feature."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.models.initializers import torch_bias, torch_kernel


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
