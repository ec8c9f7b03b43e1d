"""CLIP: an image tower and a text tower that share an embedding space (arXiv 2103.00020)."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from rkd_jax.models.clip.modified_resnet import ModifiedResNet
from rkd_jax.models.clip.text import TextTransformer
from rkd_jax.models.clip.transformer import ACTIVATIONS
from rkd_jax.models.clip.vit import VisionTransformer
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


def _vit(patch: int, resolution: int = 224) -> ClipConfig:
  return ClipConfig(vision_patch_size=patch, image_resolution=resolution)


def _vit_large(resolution: int) -> ClipConfig:
  return ClipConfig(
    embed_dim=768,
    image_resolution=resolution,
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
  "ViT-B/32": _vit(32),
  "ViT-B/16": _vit(16),
  "ViT-L/14": _vit_large(224),
  "ViT-L/14@336px": _vit_large(336),
  "RN50": _resnet(1024, 224, (3, 4, 6, 3), 64, 512),
  "RN101": _resnet(512, 224, (3, 4, 23, 3), 64, 512),
  "RN50x4": _resnet(640, 288, (4, 6, 10, 6), 80, 640),
  "RN50x16": _resnet(768, 384, (6, 8, 18, 8), 96, 768),
  "RN50x64": _resnet(1024, 448, (3, 15, 36, 10), 128, 1024),
}


class Clip(nn.Module):
  """Both towers and the learned temperature; embeddings come out un-normalised.

  Images are float, NHWC, normalised by `preprocess.normalize`.
  """

  config: ClipConfig

  @classmethod
  def from_config(cls, config: Mapping[str, Any] | str) -> "Clip":
    """Builds the model from a mapping of `ClipConfig` fields or the name of a preset."""
    if isinstance(config, str):
      if config not in PRESETS:
        raise ValueError(f"CLIP preset {config!r} is not one of {', '.join(PRESETS)}")
      return cls(PRESETS[config])
    return cls(ClipConfig.from_dict(config))

  def setup(self):
    config = self.config
    dtype = jnp.dtype(config.dtype)
    if isinstance(config.vision_layers, int):
      self.visual = VisionTransformer(
        patch_size=config.vision_patch_size,
        width=config.vision_width,
        layers=config.vision_layers,
        heads=config.vision_heads or config.vision_width // 64,
        output_dim=config.embed_dim,
        input_resolution=config.image_resolution,
        activation=config.activation,
        dtype=dtype,
      )
    else:
      channels = config.vision_width * 2 ** (len(config.vision_layers) + 1)
      self.visual = ModifiedResNet(
        layers=config.vision_layers,
        width=config.vision_width,
        output_dim=config.embed_dim,
        heads=config.vision_heads or channels // 64,
        input_resolution=config.image_resolution,
        pooling=config.pooling,
        dtype=dtype,
      )
    self.text = TextTransformer(
      vocab_size=config.vocab_size,
      context_length=config.context_length,
      width=config.transformer_width,
      layers=config.transformer_layers,
      heads=config.transformer_heads,
      output_dim=config.embed_dim,
      activation=config.activation,
      dtype=dtype,
    )
    self.logit_scale = self.param(
      "logit_scale", nn.initializers.constant(math.log(config.initial_logit_scale)), ()
    )

  def encode_image(self, images: Float[Arr, "b h w 3"], train: bool = False) -> Float[Array, "b d"]:
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
  return Clip.from_config({**config, "vocab_size": vocab_size})


def init_clip(model: Clip, key: jax.Array):
  """Fresh variables {'params', ...}; both towers are touched once."""
  config = model.config
  images = jnp.zeros((2, config.image_resolution, config.image_resolution, 3))
  tokens = jnp.zeros((2, config.context_length), jnp.int32)
  return model.init(key, images, tokens, True)
