"""Region proposal network: head, and proposals from its outputs."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.machine.target import over_images
from rkd_jax.models.backbones.layers import Conv, relu
from rkd_jax.ops import boxes as boxes_lib
from rkd_jax.ops.nms import nms
from rkd_jax.ops.padding import Extents
from rkd_jax.ops.top_k import top_k
from rkd_jax.structures import Proposals, RpnOutputs


class RpnHead(nn.Module):
  """3x3 convolution, then objectness and deltas per anchor; shared by all levels.

  Returns logits [b, h*w*A] and deltas [b, h*w*A, 4], anchors of a cell fastest.
  """

  channels: int
  anchors_per_cell: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, features: Float[Array, "b h w c"]
  ) -> tuple[Float[Array, "b n"], Float[Array, "b n 4"]]:
    init = nn.initializers.normal(0.01)

    def conv(x, channels, kernel, name):
      return Conv(channels, kernel, kernel_init=init, dtype=self.dtype, name=name)(x)

    x = relu(conv(features, self.channels, 3, "conv"))
    logits = conv(x, self.anchors_per_cell, 1, "objectness").astype(jnp.float32)
    deltas = conv(x, 4 * self.anchors_per_cell, 1, "deltas").astype(jnp.float32)
    batch = features.shape[0]
    return logits.reshape(batch, -1), deltas.reshape(batch, -1, 4)


def valid_anchors(
  features: Sequence[Float[Array, "b _h _w c"]],
  extents: Extents,
  strides: Sequence[int],
  anchors_per_cell: int,
) -> Bool[Array, "b a"]:
  """Whether an anchor's cell exists in the map of an image of these extents.

  The others are of the canvas alone: they neither propose nor count in the loss.
  """
  valid = []
  for (_, height, width, _), stride in zip((x.shape for x in features), strides, strict=True):
    # No array has the anchors of a cell as its last axis, which a TPU would pad to 128.
    cell = jnp.arange(height * width * anchors_per_cell) // anchors_per_cell
    row, column = jnp.divmod(cell, width)
    ends = -(-extents // stride)
    valid.append((row < ends[:, :1]) & (column < ends[:, 1:]))
  return jnp.concatenate(valid, axis=1)


def propose(
  outputs: RpnOutputs,
  level_counts: Sequence[int],
  image_sizes: Int[Array, "b 2"],
  pre_nms: int,
  post_nms: int,
  nms_threshold: float,
) -> Proposals:
  """Proposals of a batch, best first, without gradient.

  Order of the reference: the best `pre_nms` raw logits per level (of valid anchors), decode, clip
  to the unpadded image, drop empty boxes, NMS per level, then the best `post_nms` of all levels.
  """

  def one_image(logits, deltas, valid, size):
    logits = jnp.where(valid, logits, -jnp.inf)
    candidates = []
    start = 0
    for level, count in enumerate(level_counts):
      top, index = top_k(logits[start : start + count], min(pre_nms, count))
      index = index + start
      start += count
      boxes = boxes_lib.decode(deltas[index], outputs.anchors[index], boxes_lib.RPN_WEIGHTS)
      finite = jnp.all(jnp.isfinite(boxes), axis=-1) & jnp.isfinite(top)
      boxes = boxes_lib.clip(jnp.where(finite[:, None], boxes, 0.0), size)
      valid = finite & boxes_lib.is_nonempty(boxes)
      candidates.append((boxes, top, valid, jnp.full(top.shape, level)))
    boxes, scores, valid, levels = (jnp.concatenate(x) for x in zip(*candidates, strict=True))
    several = len(level_counts) > 1
    keep, keep_valid = nms(
      boxes, scores, valid, nms_threshold, post_nms, levels if several else None, not several
    )
    # Clamped to a finite value: padding rows must not carry -inf into sums.
    return Proposals(
      boxes=jnp.where(keep_valid[:, None], boxes[keep], 0.0),
      logits=jnp.where(keep_valid, scores[keep], 0.0),
      valid=keep_valid,
    )

  logits, deltas = jax.lax.stop_gradient((outputs.logits, outputs.deltas))
  return over_images(one_image, logits, deltas, outputs.valid, image_sizes)
