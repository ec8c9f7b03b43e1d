"""CLIP: an image tower and a text tower that share an embedding space (arXiv 2103.00020)."""

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from rkd_jax.models.clip.modified_resnet import AttentionPool, trunk
from rkd_jax.models.clip.transformer import ACTIVATIONS, Block, LayerNorm, PatchEmbedding
from rkd_jax.structures import Arr

MAX_LOGIT_SCALE = 100.0


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """Sizes of a CLIP model, named as in the published checkpoints.

  `vision_layers` chooses the image tower: a number of blocks is a vision transformer, which needs
  `vision_patch_size`; a tuple with the blocks of each stage is a ModifiedResNet, the only one that
  looks at `pooling`.  `vision_heads` defaults to one head per 64 channels.  `activation` is that of
  the transformers and a property of the weights: "quick_gelu" for OpenAI's, "gelu" (exact) for most
  of open_clip's.  `dtype` is the type of the computation; parameters are float32.
  """

  embed_dim: int = 512
  image_resolution: int = 224
  vision_layers: int | tuple[int, ...] = 12
  vision_width: int = 768
  vision_patch_size: int | None = None
  vision_heads: int | None = None
  pooling: Literal["attention", "average"] = "attention"
  context_length: int = 77
  vocab_size: int = 49408
  transformer_width: int = 512
  transformer_heads: int = 8
  transformer_layers: int = 12
  activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
  initial_logit_scale: float = 1 / 0.07
  dtype: str = "float32"

  def __post_init__(self):
    is_vit = isinstance(self.vision_layers, int)
    if is_vit != (self.vision_patch_size is not None):
      raise ValueError(
        f"vision_layers={self.vision_layers!r} with vision_patch_size={self.vision_patch_size!r}:"
        " give a number of layers and a patch size, or a tuple of stages and None"
      )
    if self.activation not in ACTIVATIONS:
      raise ValueError(f"activation is {self.activation!r}; use one of {', '.join(ACTIVATIONS)}")

  @classmethod
  def from_dict(cls, config: Mapping[str, Any]) -> "ClipConfig":
    """Reads a mapping, such as an ml_collections.ConfigDict.

    Raises:
      ValueError: an unknown key; the nearest known ones are named.
    """
    known = [field.name for field in dataclasses.fields(cls)]
    for key in config:
      if key not in known:
        near = difflib.get_close_matches(key, known) or known
        raise ValueError(f"CLIP config: unknown key {key!r}; did you mean {', '.join(near)}?")
    values = dict(config.items())
    if isinstance(values.get("vision_layers"), list):
      values["vision_layers"] = tuple(values["vision_layers"])
    return cls(**values)


_LARGE = ClipConfig(
  embed_dim=768,
  vision_layers=24,
  vision_width=1024,
  vision_patch_size=14,
  transformer_width=768,
  transformer_heads=12,
)


def _resnet(
  embed_dim: int, resolution: int, layers: tuple[int, ...], width: int, text_width: int
) -> ClipConfig:
  return ClipConfig(
    embed_dim=embed_dim,
    image_resolution=resolution,
    vision_layers=layers,
    vision_width=width,
    transformer_width=text_width,
    transformer_heads=text_width // 64,
  )


PRESETS = {
  "ViT-B/32": ClipConfig(vision_patch_size=32),
  "ViT-B/16": ClipConfig(vision_patch_size=16),
  "ViT-L/14": _LARGE,
  "ViT-L/14@336px": dataclasses.replace(_LARGE, image_resolution=336),
  "RN50": _resnet(1024, 224, (3, 4, 6, 3), 64, 512),
  "RN101": _resnet(512, 224, (3, 4, 23, 3), 64, 512),
  "RN50x4": _resnet(640, 288, (4, 6, 10, 6), 80, 640),
  "RN50x16": _resnet(768, 384, (6, 8, 18, 8), 96, 768),
  "RN50x64": _resnet(1024, 448, (3, 15, 36, 10), 128, 1024),
}


class ModifiedResNet(nn.Module):
  """Images to one embedding each, for any number of stages (see `modified_resnet.trunk`).

  `pooling` is "attention" (the published models) or "average": spatial mean and a linear
  projection, which learns faster in tiny towers.  With `train`, batch norm uses and updates the
  statistics in the collection "batch_stats".
  """

  config: ClipConfig

  @nn.compact
  def __call__(self, images: Float[Arr, "b h w 3"], train: bool = False) -> Float[Array, "b d"]:
    c, dtype = self.config, jnp.dtype(self.config.dtype)
    norm = functools.partial(
      nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype
    )
    x = trunk(images, c.vision_layers, c.vision_width, norm, dtype)[-1]
    match c.pooling:
      case "attention":
        heads = c.vision_heads or x.shape[-1] // 64
        return AttentionPool(heads, c.embed_dim, dtype, name="attnpool")(x)
      case "average":
        return nn.Dense(c.embed_dim, dtype=dtype, name="proj")(x.mean((1, 2)))
      case _:
        raise ValueError(f"pooling is {c.pooling!r}; use 'attention' or 'average'")


class VisionTransformer(nn.Module):
  """Patches to one embedding per image, taken from the class token.

  Layer norm comes before the first block and again on the class token, then a projection without
  bias.  The resolution fixes the number of learned positions.  `train` changes nothing.
  """

  config: ClipConfig

  @nn.compact
  def __call__(self, images: Float[Arr, "b h w 3"], train: bool = False) -> Float[Array, "b d"]:
    c, dtype = self.config, jnp.dtype(self.config.dtype)
    width, depth = c.vision_width, c.vision_layers
    x = PatchEmbedding(c.vision_patch_size, width, dtype, name="conv1")(images)

    normal = nn.initializers.normal(width**-0.5)
    class_token = self.param("class_embedding", normal, (width,)).astype(dtype)
    class_token = jnp.broadcast_to(class_token, (len(images), 1, width))
    x = jnp.concatenate([class_token, x], axis=1)
    positions = self.param("positional_embedding", normal, (x.shape[1], width))
    x = LayerNorm(name="ln_pre")(x + positions.astype(dtype))
    heads = c.vision_heads or width // 64
    for i in range(depth):
      x = Block(heads, depth, False, c.activation, dtype, name=f"block_{i}")(x)
    x = LayerNorm(name="ln_post")(x[:, 0])
    return x @ self.param("proj", normal, (width, c.embed_dim)).astype(dtype)


class TextTransformer(nn.Module):
  """Token rows to one embedding each, read at the end mark.

  The end mark is the largest id of a row, so the first position of the maximum is where to read.
  Nothing masks the padding after it: attention is causal, so the padding is never seen.  Rows may
  therefore be shorter than `context_length`, down to the longest text.
  """

  config: ClipConfig

  @nn.compact
  def __call__(self, tokens: Int[Arr, "b t"]) -> Float[Array, "b d"]:
    """Embeds token rows.

    Raises:
      ValueError: the rows are longer than `context_length`.
    """
    c, dtype, normal = self.config, jnp.dtype(self.config.dtype), nn.initializers.normal
    (batch, length), width, depth = tokens.shape, c.transformer_width, c.transformer_layers
    if length > c.context_length:
      raise ValueError(f"token rows have {length} entries, the model has {c.context_length}")
    embed = nn.Embed(
      c.vocab_size, width, dtype, embedding_init=normal(0.02), name="token_embedding"
    )
    positions = self.param("positional_embedding", normal(0.01), (c.context_length, width))
    x = embed(tokens) + positions[:length].astype(dtype)
    for i in range(depth):
      x = Block(c.transformer_heads, depth, True, c.activation, dtype, name=f"block_{i}")(x)
    # Only the row that is read needs the norm.
    x = LayerNorm(name="ln_final")(x[jnp.arange(batch), tokens.argmax(-1)])
    projection = self.param("text_projection", normal(width**-0.5), (width, c.embed_dim))
    return x @ projection.astype(dtype)


class Clip(nn.Module):
  """Both towers and the learned temperature; embeddings come out un-normalised.

  Images are float, NHWC, normalised by `preprocess.normalize`.
  """

  config: ClipConfig

  def setup(self):
    c = self.config
    tower = VisionTransformer if isinstance(c.vision_layers, int) else ModifiedResNet
    self.visual = tower(c)
    self.text = TextTransformer(c)
    initial = nn.initializers.constant(math.log(c.initial_logit_scale))
    self.logit_scale = self.param("logit_scale", initial, ())

  def encode_image(self, images: Float[Arr, "b h w 3"], train: bool = False) -> Float[Array, "b d"]:
    """Embeds normalised images.

    Raises:
      ValueError: the images are not `image_resolution` pixels on both sides.
    """
    size = self.config.image_resolution
    if images.shape[1:3] != (size, size):
      raise ValueError(f"images are {images.shape[1:3]} pixels, this tower expects {(size, size)}")
    return self.visual(images, train)

  def encode_text(self, tokens: Int[Arr, "b t"]) -> Float[Array, "b d"]:
    return self.text(tokens)

  def __call__(
    self, images: Float[Arr, "b h w 3"], tokens: Int[Arr, "n t"], train: bool = False
  ) -> tuple[Float[Array, "b d"], Float[Array, "n d"], Float[Array, ""]]:
    """Image embeddings, text embeddings and the factor on their cosine (at most 100).

    With `train`, apply with `mutable=["batch_stats"]` if the image tower is a ModifiedResNet.
    """
    # The clip is invisible to the gradient, or the scale could never come down again.
    excess = jnp.maximum(self.logit_scale - math.log(MAX_LOGIT_SCALE), 0)
    scale = jnp.exp(self.logit_scale - jax.lax.stop_gradient(excess))
    return self.encode_image(images, train), self.encode_text(tokens), scale


def make_clip(config: dict[str, Any], vocab_size: int) -> Clip:
  """The CLIP of a config's `clip` block, with as many tokens as its tokenizer has."""
  return Clip(ClipConfig.from_dict({**config, "vocab_size": vocab_size}))


def init_clip(model: Clip, key: jax.Array):
  """Fresh variables {'params', ...}; both towers are touched once."""
  config = model.config
  images = jnp.zeros((2, config.image_resolution, config.image_resolution, 3))
  tokens = jnp.zeros((2, config.context_length), jnp.int32)
  return model.init(key, images, tokens, True)
