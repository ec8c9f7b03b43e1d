"""Weight transfer: the classifier's projection as a function of the distilled one.

Joins region-based distillation and image-level supervision: the projection that RKD taught is kept
frozen, and a small MLP maps its weights to those that classify, so that ILS refines what was
distilled and does not overwrite it.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.models.backbones.layers import torch_dense


class WeightTransfer(nn.Module):
  """W_P = W_2 rho(W_1 W_D): the classifier's projection, computed from the distilled one.

  The paper's weight-transfer function (rho = LeakyReLU 0.1), applied to each row of W_D (one per
  embedding dimension), plus a two-layer residual branch on the feature itself.  W_D stays frozen
  through the config's `frozen` list.
  """

  hidden: int
  residual_hidden: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "n d"], distilled_kernel: Float[Array, "d e"]
  ) -> Float[Array, "n e"]:
    width, embedding_dim = distilled_kernel.shape
    dense = functools.partial(torch_dense, dtype=self.dtype)
    rows = nn.leaky_relu(dense(self.hidden, width, name="fc1")(distilled_kernel.T), 0.1)
    rows = dense(width, self.hidden, name="fc2")(rows)
    residual = nn.leaky_relu(dense(self.residual_hidden, width, name="fc3")(x), 0.1)
    residual = dense(embedding_dim, self.residual_hidden, name="fc4")(residual)
    transferred = jax.lax.dot_general(x.astype(rows.dtype), rows, (((1,), (1,)), ((), ())))
    return (transferred + residual).astype(jnp.float32)
