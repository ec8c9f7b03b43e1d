"""CLIP's causal text transformer."""

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from rkd_jax.models.clip.transformer import Block, LayerNorm
from rkd_jax.structures import Arr


class TextTransformer(nn.Module):
  """Token rows to one embedding each, read at the end mark.

  The end mark is the largest id of a row, so the first position of the maximum is where to read.
  Nothing masks the padding after it: attention is causal, so the padding is never seen.  Rows may
  therefore be shorter than `context_length`, down to the longest text.
  """

  vocab_size: int
  context_length: int
  width: int
  layers: int
  heads: int
  output_dim: int
  activation: str = "quick_gelu"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: Int[Arr, "b t"]) -> Float[Array, "b d"]:
    """Embeds token rows.

    Raises:
      ValueError: the rows are longer than `context_length`.
    """
    batch, length = tokens.shape
    if length > self.context_length:
      raise ValueError(f"token rows have {length} entries, the model has {self.context_length}")
    normal = nn.initializers.normal
    embed = nn.Embed(
      self.vocab_size,
      self.width,
      embedding_init=normal(0.02),
      dtype=self.dtype,
      name="token_embedding",
    )
    positions = self.param("positional_embedding", normal(0.01), (self.context_length, self.width))
    x = embed(tokens) + positions[:length].astype(self.dtype)
    for i in range(self.layers):
      x = Block(self.heads, self.layers, True, self.activation, self.dtype, name=f"block_{i}")(x)
    # Only the row that is read needs the norm.
    x = LayerNorm(name="ln_final")(x[jnp.arange(batch), tokens.argmax(-1)])
    projection = self.param(
      "text_projection", normal(self.width**-0.5), (self.width, self.output_dim)
    )
    return x @ projection.astype(self.dtype)
