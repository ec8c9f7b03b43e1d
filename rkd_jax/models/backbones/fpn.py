"""Feature pyramid (Lin et al. 2017) as detectron2 builds it, with a max-pooled last level."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.machine import target
from rkd_jax.models.backbones.layers import XAVIER_INIT, Conv
from rkd_jax.ops.padding import Extents, zero_beyond


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Nearest neighbour, twice the height and width."""
  b, h, w, c = x.shape
  if target.current().platform != "tpu":
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
  # To write each column twice takes a TPU, which moves registers of eight and more of them, 20
  # times as long as a product with zeros and ones, which is as exact; each row, twice as long.
  rows, columns = (jnp.repeat(jnp.eye(n, dtype=x.dtype), 2, axis=0) for n in (h, w))
  x = jnp.einsum("vw,bhwc->bhvc", columns, x, precision="highest")
  return jnp.einsum("uh,bhvc->buvc", rows, x, precision="highest")


class FPN(nn.Module):
  """Maps of the trunk, of strides 4 to 32, say, to [p2, ..., p5, p6], finest first.

  A 1x1 `lateral<i>` convolution per map, of stride 2**i, plus the coarser sum upsampled by nearest
  neighbour, then a 3x3 `output<i>` convolution; biases, no normalisation, no activation.  The last
  map has twice the stride of the coarsest one and holds every second cell of its output.

  With `extents` (see `ops.padding`) no cell within them depends on the canvas; those beyond hold
  anything.

  Raises:
    ValueError: a stride is not twice the one before.
  """

  strides: Sequence[int]
  channels: int = 256
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, features: Sequence[Float[Array, "b _h _w _c"]], extents: Extents | None = None
  ) -> list[Float[Array, "b _h _w {self.channels}"]]:
    first = self.strides[0].bit_length() - 1
    if list(self.strides) != [2 ** (first + i) for i in range(len(self.strides))]:
      raise ValueError(
        f"FPN: the trunk's maps have strides {tuple(self.strides)}; expected powers of two, each "
        "twice the one before, such as (4, 8, 16, 32)."
      )

    def conv(x, kernel, name):
      return Conv(self.channels, kernel, kernel_init=XAVIER_INIT, dtype=self.dtype, name=name)(x)

    outputs = []
    coarser = None
    for i, x in reversed(list(enumerate(features, first))):
      total = conv(x, 1, f"lateral{i}")
      if coarser is not None:
        # A map of odd size has half a cell less than its coarser one upsampled.
        total = total + upsample(coarser)[:, : total.shape[1], : total.shape[2]]
      coarser = total
      outputs.append(conv(zero_beyond(total, extents, 2**i), 3, f"output{i}"))
    outputs.reverse()
    return [*outputs, outputs[-1][:, ::2, ::2]]
