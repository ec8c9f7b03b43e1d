"""RoBERTa text encoder (arXiv 1907.11692), as in the base model of the `transformers` package."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.models.mavl.transformer import Attention, layer_norm
from rkd_jax.structures import Arr

# The id of padding.  Positions count from the one after it.
PADDING = 1


class RobertaLayer(nn.Module):
  """Self-attention and a feed-forward half with the exact GELU, post-norm."""

  heads: int
  hidden: int
  epsilon: float

  @nn.compact
  def __call__(self, x: Float[Arr, "b t d"], valid: Bool[Arr, "b t"]) -> Float[Array, "b t d"]:
    attended = Attention(self.heads, name="attention")(x, x, x, valid)
    x = layer_norm("attention_norm", self.epsilon)(x + attended)
    hidden = nn.gelu(nn.Dense(self.hidden, name="intermediate")(x), approximate=False)
    return layer_norm("output_norm", self.epsilon)(x + nn.Dense(x.shape[-1], name="output")(hidden))


class Roberta(nn.Module):
  """Token rows to one vector per token, the marks included (last_hidden_state; no pooler)."""

  vocab_size: int = 50265
  width: int = 768
  layers: int = 12
  heads: int = 12
  hidden: int = 3072
  positions: int = 514
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, tokens: Int[Arr, "b t"], valid: Bool[Arr, "b t"]) -> Float[Array, "b t d"]:
    """Encodes token rows; `valid` is false on padding, which is not attended to.

    Raises:
      ValueError: the rows are longer than the table of positions.
    """
    if tokens.shape[1] > self.positions - PADDING - 1:
      raise ValueError(
        f"token rows have {tokens.shape[1]} entries, the text encoder takes "
        f"{self.positions - PADDING - 1}: shorten the query."
      )
    valid = jnp.asarray(valid)
    position = jnp.where(valid, jnp.cumsum(valid, axis=1), 0) + PADDING
    x = nn.Embed(self.vocab_size, self.width, name="word_embeddings")(jnp.asarray(tokens))
    x += nn.Embed(self.positions, self.width, name="position_embeddings")(position)
    # There is one type of token.
    x += nn.Embed(1, self.width, name="token_type_embeddings")(jnp.zeros_like(position))
    x = layer_norm("embedding_norm", self.epsilon)(x)
    for i in range(self.layers):
      x = RobertaLayer(self.heads, self.hidden, self.epsilon, name=f"layer_{i}")(x, valid)
    return x
