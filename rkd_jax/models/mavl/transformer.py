"""Layers of the multi-modal ViT: encoder, decoder and late fusion, all post-norm."""

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from rkd_jax.models.mavl.deformable import DeformableAttention
from rkd_jax.models.mavl.pyramid import Pyramid
from rkd_jax.structures import Arr


def layer_norm(name: str, epsilon: float = 1e-5) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


class Attention(nn.Module):
  """Multi-head attention; keys that are not `valid` are not seen."""

  heads: int = 8

  @nn.compact
  def __call__(
    self,
    queries: Float[Arr, "b q c"],
    keys: Float[Arr, "b k c"],
    values: Float[Arr, "b k c"],
    valid: Bool[Arr, "b k"] | None = None,
  ) -> Float[Array, "b q c"]:
    width = queries.shape[-1]

    def heads(x, name):
      x = nn.Dense(width, name=name)(x)
      return x.reshape(*x.shape[:2], self.heads, width // self.heads)

    mixed = jax.nn.dot_product_attention(
      heads(queries, "query"),
      heads(keys, "key"),
      heads(values, "value"),
      mask=None if valid is None else valid[:, None, None, :],
    )
    return nn.Dense(width, name="out_proj")(mixed.reshape(queries.shape))


class _Layer(nn.Module):
  """What the three kinds of layers share: sizes and the feed-forward half."""

  heads: int = 8
  points: int = 4
  hidden: int = 1024

  def feed_forward(self, x, norm):
    hidden = nn.relu(nn.Dense(self.hidden, name="linear1")(x))
    return layer_norm(norm)(x + nn.Dense(x.shape[-1], name="linear2")(hidden))


class EncoderLayer(_Layer):
  """Every cell of the pyramid attends to a few places of it."""

  @nn.compact
  def __call__(
    self, x: Float[Arr, "b s c"], positions: Float[Arr, "b s c"], pyramid: Pyramid
  ) -> Float[Array, "b s c"]:
    attention = DeformableAttention(self.heads, self.points, name="self_attn")
    attended = attention(x + positions, pyramid.cells, x, pyramid)
    return self.feed_forward(layer_norm("norm1")(x + attended), "norm2")


class DecoderLayer(_Layer):
  """Object queries attend to one another, then to a few places of the pyramid each."""

  @nn.compact
  def __call__(
    self,
    x: Float[Arr, "b n c"],
    positions: Float[Arr, "b n c"],
    references: Float[Arr, "b n 2"],
    memory: Float[Arr, "b s c"],
    pyramid: Pyramid,
  ) -> Float[Array, "b n c"]:
    queries = x + positions
    attended = Attention(self.heads, name="self_attn")(queries, queries, x)
    x = layer_norm("norm2")(x + attended)
    attention = DeformableAttention(self.heads, self.points, name="cross_attn")
    places = references[:, :, None] * pyramid.valid_ratios[:, None]
    attended = attention(x + positions, places, memory, pyramid)
    return self.feed_forward(layer_norm("norm1")(x + attended), "norm3")


class FusionLayer(_Layer):
  """Objects and words attend to one another, without positions."""

  @nn.compact
  def __call__(self, x: Float[Arr, "b t c"], valid: Bool[Arr, "b t"]) -> Float[Array, "b t c"]:
    attended = Attention(self.heads, name="self_attn")(x, x, x, valid)
    return self.feed_forward(layer_norm("norm1")(x + attended), "norm2")
