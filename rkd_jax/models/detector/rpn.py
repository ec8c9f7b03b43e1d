"""Region proposal network: head, and proposals from its outputs."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.models.backbones.layers import Conv
from rkd_jax.ops import anchors as anchors_lib
from rkd_jax.ops import boxes as boxes_lib
from rkd_jax.ops import nms as nms_lib
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

    x = nn.relu(conv(features, self.channels, 3, "conv"))
    logits = conv(x, self.anchors_per_cell, 1, "objectness").astype(jnp.float32)
    deltas = conv(x, 4 * self.anchors_per_cell, 1, "deltas").astype(jnp.float32)
    batch = features.shape[0]
    return logits.reshape(batch, -1), deltas.reshape(batch, -1, 4)


@dataclasses.dataclass(frozen=True)
class ProposalOptions:
  """How many anchors survive: top-k per level, NMS, top-k over all levels."""

  pre_nms: int
  post_nms: int
  nms_threshold: float = 0.7


def level_anchors(
  shapes: Sequence[tuple[int, int]],
  strides: Sequence[int],
  sizes: Sequence[Sequence[float]],
  ratios: Sequence[float],
) -> list[Float[Array, "n 4"]]:
  """Static anchors of each level; `sizes[l]` are the square sizes of level l, in pixels."""
  return [
    jnp.asarray(anchors_lib.grid_anchors(h, w, stride, level_sizes, ratios))
    for (h, w), stride, level_sizes in zip(shapes, strides, sizes, strict=True)
  ]


def valid_anchors(
  extents: Int[Array, "b 2"],
  shapes: Sequence[tuple[int, int]],
  strides: Sequence[int],
  anchors_per_cell: int,
) -> Bool[Array, "b a"]:
  """Whether an anchor's cell exists in the map of an image of these `extents` (height, width).

  The others are of the canvas alone: they neither propose nor count in the loss.
  """
  valid = []
  for (height, width), stride in zip(shapes, strides, strict=True):
    cells = -(-extents // stride)
    rows = jnp.arange(height) < cells[:, :1]
    columns = jnp.arange(width) < cells[:, 1:]
    inside = (rows[:, :, None] & columns[:, None, :]).reshape(extents.shape[0], -1)
    valid.append(jnp.repeat(inside, anchors_per_cell, axis=1))
  return jnp.concatenate(valid, axis=1)


def propose(
  outputs: RpnOutputs,
  level_counts: Sequence[int],
  image_sizes: Int[Array, "b 2"],
  options: ProposalOptions,
) -> Proposals:
  """Proposals of a batch, best first, without gradient.

  Order of the reference: top-k of the raw logits per level (of valid anchors), decode,
  clip to the unpadded image, drop empty boxes, NMS per level, then the best of all
  levels.
  """

  def one_image(logits, deltas, valid, size):
    logits = jnp.where(valid, logits, -jnp.inf)
    candidates = []
    start = 0
    for level, count in enumerate(level_counts):
      level_logits = logits[start : start + count]
      top, index = jax.lax.top_k(level_logits, min(options.pre_nms, count))
      index = index + start
      start += count
      boxes = boxes_lib.decode(deltas[index], outputs.anchors[index], boxes_lib.RPN_WEIGHTS)
      finite = jnp.all(jnp.isfinite(boxes), axis=-1) & jnp.isfinite(top)
      boxes = boxes_lib.clip(jnp.where(finite[:, None], boxes, 0.0), size)
      valid = finite & boxes_lib.is_nonempty(boxes)
      candidates.append((boxes, top, valid, jnp.full(top.shape, level)))
    boxes, scores, valid, levels = (jnp.concatenate(x) for x in zip(*candidates, strict=True))
    keep, keep_valid = nms_lib.nms(
      boxes,
      scores,
      valid,
      options.nms_threshold,
      options.post_nms,
      classes=levels if len(level_counts) > 1 else None,
    )
    # Clamped to a finite value: padding rows must not carry -inf into sums.
    return Proposals(
      boxes=jnp.where(keep_valid[:, None], boxes[keep], 0.0),
      logits=jnp.where(keep_valid, scores[keep], 0.0),
      valid=keep_valid,
    )

  logits, deltas = jax.lax.stop_gradient((outputs.logits, outputs.deltas))
  return jax.vmap(one_image)(logits, deltas, outputs.valid, image_sizes)
