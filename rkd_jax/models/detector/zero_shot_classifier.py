"""Classification by cosine similarity to class embeddings (the rows of T).

A RoI feature x is projected into CLIP's space, R = f(x); the logit of class c is
temperature * cos(R, T_c) (+ a learned bias).  Background is an all-zero row appended last, so its
logit is 0 (or the bias).  The projection f is also what RKD distils CLIP's region embeddings into.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.models.backbones.layers import torch_dense
from rkd_jax.models.detector.weight_transfer import WeightTransfer
from rkd_jax.ops.embeddings import l2_normalize


class ZeroShotClassifier(nn.Module):
  """The projection f and the cosine classifier.

  `bias` is the initial value of one learned bias for all columns; None is no bias.
  `weight_transfer` gives the hidden widths (of the weight MLP, of the residual branch); None
  classifies with the distilled projection itself.
  """

  embedding_dim: int
  temperature: float = 50.0
  bias: float | None = None
  weight_transfer: tuple[int, int] | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "n d"], class_embeddings: Float[Array, "c e"]
  ) -> tuple[Float[Array, "n c1"], Float[Array, "n e"]]:
    """Class logits with the background column last, and f(x), not normalised."""
    projection = torch_dense(self.embedding_dim, x.shape[-1], self.dtype, "projection")
    distilled = projection(x).astype(jnp.float32)
    if self.weight_transfer is None:
      embeddings = distilled
    else:
      kernel = projection.variables["params"]["kernel"]
      embeddings = WeightTransfer(*self.weight_transfer, self.dtype, name="transfer")(x, kernel)
    background = jnp.zeros((1, class_embeddings.shape[1]), jnp.float32)
    text = l2_normalize(jnp.concatenate([class_embeddings.astype(jnp.float32), background]))
    logits = self.temperature * jnp.einsum("ne,ce->nc", l2_normalize(embeddings), text)
    if self.bias is not None:
      logits += self.param("bias", nn.initializers.constant(self.bias), ())
    return logits, distilled
