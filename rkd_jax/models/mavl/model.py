"""MAVL, the multi-modal ViT with late fusion (MDef-DETR, arXiv 2111.11430): boxes for a query.

A ResNet-101 and a deformable encoder and decoder turn an image into 300 objects.  The text joins
only then: objects and words pass six fusion layers, and two heads read scores and boxes off the
objects.  So one image is encoded once for all its queries, which cost little:

    objects = model.apply(variables, images, method="encode_image")
    predictions = model.apply(variables, objects, tokens, valid, method="query")

Behaviour of `mdef_detr` in mmaaz60/mvits_for_class_agnostic_od, in evaluation mode.  There is no
iterative refinement of boxes.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.models.backbones.resnet import ResNet
from rkd_jax.models.mavl.pyramid import STRIDES, make_pyramid, sine_positions
from rkd_jax.models.mavl.roberta import Roberta
from rkd_jax.models.mavl.transformer import DecoderLayer, EncoderLayer, FusionLayer, layer_norm
from rkd_jax.ops.padding import Extents, zero_beyond
from rkd_jax.structures import Arr


@dataclasses.dataclass(frozen=True)
class MvitConfig:
  """Sizes; the defaults are those of the released checkpoint."""

  stage_blocks: tuple[int, ...] = (3, 4, 23, 3)
  stage_width: int = 64
  width: int = 256
  norm_groups: int = 32
  heads: int = 8
  points: int = 4
  hidden: int = 1024
  encoder_layers: int = 6
  decoder_layers: int = 6
  fusion_layers: int = 6
  queries: int = 300
  classes: int = 256
  vocab_size: int = 50265
  text_width: int = 768
  text_layers: int = 12
  text_heads: int = 12
  text_hidden: int = 3072
  text_positions: int = 514


RELEASED = MvitConfig()


@struct.dataclass
class Predictions:
  """What the objects of an image are, given a query.

  Attributes:
    logits: the last class is "no object"; the others are positions in the training captions.
    boxes: (cx, cy, w, h) as fractions of the image's width and height.
  """

  logits: Float[Array, "b n k"]
  boxes: Float[Array, "b n 4"]

  @property
  def scores(self) -> Float[Array, "b n"]:
    """Probability of being any object."""
    return 1 - jax.nn.softmax(self.logits)[..., -1]


class GroupNorm(nn.Module):
  """Group normalisation over the cells within the extents, which alone the output is meant for."""

  groups: int
  epsilon: float = 1e-5

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], extents: Int[Array, "b 2"]
  ) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    grouped = x.reshape(*x.shape[:3], self.groups, -1)
    count = (jnp.prod(extents, -1) * grouped.shape[-1])[:, None, None, None, None]

    def mean(y):
      within = zero_beyond(y.reshape(x.shape), extents, 1).reshape(y.shape)
      return within.sum((1, 2, 4), keepdims=True) / count

    centred = grouped - mean(grouped)
    normal = centred * jax.lax.rsqrt(mean(jnp.square(centred)) + self.epsilon)
    return normal.reshape(x.shape) * scale + bias


class Mvit(nn.Module):
  """The whole model; images are float, NHWC, RGB, with ImageNet's mean and deviation taken out."""

  config: MvitConfig = RELEASED

  def setup(self):
    c = self.config
    self.backbone = ResNet(c.stage_blocks, width=c.stage_width, stride_in_1x1=False)
    kernels = [(1, 1)] * (len(STRIDES) - 1) + [(3, 3)]
    self.input_proj = [
      nn.Conv(c.width, kernel, strides=kernel[0] // 2 + 1, padding=kernel[0] // 2)
      for kernel in kernels
    ]
    self.input_norm = [GroupNorm(c.norm_groups) for _ in STRIDES]
    normal = nn.initializers.normal(1.0)
    self.level_embed = self.param("level_embed", normal, (len(STRIDES), c.width))
    # Positions of the object queries, then their initial content.
    self.query_embed = self.param("query_embed", normal, (c.queries, 2 * c.width))
    sizes = (c.heads, c.points, c.hidden)
    self.encoder = [EncoderLayer(*sizes) for _ in range(c.encoder_layers)]
    self.decoder = [DecoderLayer(*sizes) for _ in range(c.decoder_layers)]
    self.fusion = [FusionLayer(*sizes) for _ in range(c.fusion_layers)]
    self.reference_points = nn.Dense(2)
    self.text_encoder = Roberta(
      c.vocab_size, c.text_width, c.text_layers, c.text_heads, c.text_hidden, c.text_positions
    )
    self.resizer_fc = nn.Dense(c.width)
    self.resizer_layer_norm = layer_norm(None, 1e-12)
    self.class_embed = nn.Dense(c.classes)
    self.bbox_embed = [nn.Dense(features) for features in (c.width, c.width, 4)]

  def __call__(self, images, tokens, valid, extents=None, sizes=None) -> Predictions:
    """`query` of `encode_image`."""
    return self.query(self.encode_image(images, extents, sizes), tokens, valid)

  def encode_image(
    self,
    images: Float[Arr, "b h w 3"],
    extents: Extents | None = None,
    sizes: Extents | None = None,
  ) -> Float[Array, "b n c"]:
    """The objects of each image, before any text.

    `extents` and `sizes` are explained in `pyramid`; by default both are the canvas,
    and `sizes` is `extents` where these alone are given.
    """
    images = jnp.asarray(images)
    canvas = images.shape[1:3]
    if extents is None:
      extents = jnp.tile(jnp.array(canvas), (len(images), 1))
    sizes = extents if sizes is None else sizes
    pyramid = make_pyramid(canvas, extents, sizes)
    memory = self._encode(zero_beyond(images, sizes, 1), extents, pyramid)
    return self._decode(memory, pyramid)

  def _encode(self, images, extents, pyramid):
    maps = self.backbone(images, extents)[-3:]
    maps.append(zero_beyond(maps[-1], pyramid.extents[:, -2], 1))
    cells, positions = [], []
    for i, x in enumerate(maps):
      x = self.input_norm[i](self.input_proj[i](x), pyramid.extents[:, i])
      cells.append(x.reshape(len(x), -1, x.shape[-1]))
      sines = sine_positions(pyramid.shapes[i], pyramid.valid_sizes[:, i], x.shape[-1])
      positions.append(sines + self.level_embed[i])
    cells, positions = jnp.concatenate(cells, 1), jnp.concatenate(positions, 1)
    for layer in self.encoder:
      cells = layer(cells, positions, pyramid)
    return cells

  def _decode(self, memory, pyramid):
    shape = (len(memory), *self.query_embed.shape)
    positions, objects = jnp.split(jnp.broadcast_to(self.query_embed, shape), 2, axis=-1)
    references = nn.sigmoid(self.reference_points(positions))
    for layer in self.decoder:
      objects = layer(objects, positions, references, memory, pyramid)
    return objects

  def encode_text(self, tokens: Int[Arr, "b t"], valid: Bool[Arr, "b t"]) -> Float[Array, "b t c"]:
    """One vector per token of each row; `valid` is false on padding."""
    return self.resizer_layer_norm(self.resizer_fc(self.text_encoder(tokens, valid)))

  def fuse(
    self, objects: Float[Array, "b n c"], text: Float[Array, "b t c"], valid: Bool[Arr, "b t"]
  ) -> Predictions:
    """Predictions from the objects of an image and the encoded text, row by row."""
    count = objects.shape[1]
    x = jnp.concatenate([objects, text], axis=1)
    present = jnp.concatenate([jnp.ones(objects.shape[:2], bool), jnp.asarray(valid)], axis=1)
    for layer in self.fusion:
      x = layer(x, present)
    x = x[:, :count]
    logits = self.class_embed(x)
    for layer in self.bbox_embed[:-1]:
      x = nn.relu(layer(x))
    offsets = self.bbox_embed[-1](x)
    positions = self.query_embed[:, : self.config.width]
    references = nn.sigmoid(self.reference_points(positions))
    centres = offsets[..., :2] + _inverse_sigmoid(references)
    return Predictions(logits, nn.sigmoid(jnp.concatenate([centres, offsets[..., 2:]], -1)))

  def query(
    self, objects: Float[Array, "b n c"], tokens: Int[Arr, "b t"], valid: Bool[Arr, "b t"]
  ) -> Predictions:
    """Predictions for one query per row: several queries of an image repeat its objects."""
    return self.fuse(objects, self.encode_text(tokens, valid), valid)


def _inverse_sigmoid(x, epsilon=1e-5):
  """The logit, with both x and 1 - x kept above `epsilon`, as the original does."""
  x = jnp.clip(x, 0, 1)
  return jnp.log(jnp.maximum(x, epsilon) / jnp.maximum(1 - x, epsilon))
