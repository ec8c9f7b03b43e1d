"""CLIP's ResNet as the trunk of a detector, and how it starts from a trained CLIP.

The originals start from an ImageNet ResNet-50 whose batch statistics, stem and res2 stay
frozen.  Where a CLIP with a ResNet tower is at hand, the detector can start from that tower in
the same manner.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float

from rkd_jax.models.backbones.layers import FrozenBatchNorm
from rkd_jax.models.clip import preprocess
from rkd_jax.models.clip.model import ClipConfig
from rkd_jax.models.clip.modified_resnet import trunk
from rkd_jax.ops.padding import Extents


class ClipResNet(nn.Module):
  """The trunk of `ModifiedResNet` with frozen batch statistics.

  Stage i is `width * 2**i` wide inside and four times that outside.  `extents` as for `ResNet`.
  Parameters have the names of CLIP's tower.
  """

  stage_blocks: Sequence[int]
  width: int = 64
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  @property
  def strides(self) -> tuple[int, ...]:
    return tuple(4 * 2**i for i in range(len(self.stage_blocks)))

  @property
  def channels(self) -> tuple[int, ...]:
    return tuple(4 * self.width * 2**i for i in range(len(self.stage_blocks)))

  @nn.compact
  def __call__(
    self, images: Float[Array, "b h w 3"], extents: Extents | None = None
  ) -> list[Float[Array, "b _h _w _c"]]:
    return trunk(
      images, self.stage_blocks, self.width, _frozen_norm, self.dtype, extents, self.remat
    )

  @staticmethod
  def from_clip(
    model: ml_collections.ConfigDict, clip: ClipConfig, variables: Any, where: str
  ) -> dict[str, Any]:
    """Parameters of the backbone that `model` (a config's model block) describes.

    Args:
      model: `backbone` and the pixel normalisation are compared with what CLIP was trained with.
      clip: sizes of the CLIP that `variables` belongs to.
      variables: {'params', 'batch_stats'} of a `Clip`.
      where: names the CLIP in error messages.

    Raises:
      ValueError: another architecture than CLIP's, or another pixel normalisation.
    """
    backbone = model.backbone
    if isinstance(clip.vision_layers, int):
      raise ValueError(
        f"init.backbone: the image tower of {where} is a vision transformer; a detector's trunk "
        "can start from a ModifiedResNet only (clip.vision_layers=(3, 4, 6, 3), say)."
      )
    blocks = tuple(backbone.stage_blocks)
    expected = (tuple(clip.vision_layers)[: len(blocks)], clip.vision_width)
    if (blocks, backbone.width) != expected:
      raise ValueError(
        f"init.backbone: {where} has the tower stage_blocks={expected[0]}, width={expected[1]}, "
        f"but model.backbone is stage_blocks={blocks}, width={backbone.width}. Make them equal."
      )
    mean, std = (255 * np.array(values) for values in (preprocess.MEAN, preprocess.STD))
    if not (
      np.allclose(model.pixel_mean, mean, atol=0.01)
      and np.allclose(model.pixel_std, std, atol=0.01)
    ):
      raise ValueError(
        f"init.backbone: {where} was trained on pixels with mean {mean.round(3).tolist()} and "
        f"standard deviation {std.round(3).tolist()}; set model.pixel_mean and model.pixel_std to "
        "these (configs.common has them as CLIP_PIXEL_MEAN and CLIP_PIXEL_STD)."
      )
    params, statistics = variables["params"]["visual"], variables["batch_stats"]["visual"]
    stages = tuple(f"layer{i + 1}_" for i in range(len(blocks)))
    names = [name for name in params if name.startswith(("conv", "bn", *stages))]
    return {name: _merge(params[name], statistics.get(name, {})) for name in names}


def _frozen_norm(name: str, **_) -> nn.Module:
  return FrozenBatchNorm(name=name)


def _merge(params: dict[str, Any], statistics: dict[str, Any]) -> dict[str, Any]:
  """One tree of parameters and batch statistics, as FrozenBatchNorm keeps them."""
  merged = {**statistics, **params}
  for name in params.keys() & statistics.keys():
    merged[name] = _merge(params[name], statistics[name])
  return merged
