"""The backbones that `model.backbone.kind` can name; another one is its file and a line here."""

import dataclasses
from typing import Protocol

import ml_collections
from jaxtyping import Array, Float

from rkd_jax.models.backbones.clip_resnet import ClipResNet
from rkd_jax.models.backbones.resnet import ResNet
from rkd_jax.ops.padding import Extents


class Backbone(Protocol):
  """A Flax module whose fields are settings of `model.backbone`, `dtype` and `remat`: whether a
  gradient computes its blocks again, rather than holding what happens in them.

  It may have a static method `from_clip`, for configs with `init.backbone`: `ClipResNet.from_clip`
  says what that is given and gives.

  Attributes:
    strides: of the maps that it returns, finest first, each twice the one before.
    channels: of these maps.
  """

  @property
  def strides(self) -> tuple[int, ...]: ...

  @property
  def channels(self) -> tuple[int, ...]: ...

  def __call__(
    self, images: Float[Array, "b h w 3"], extents: Extents | None = None
  ) -> list[Float[Array, "b _h _w _c"]]:
    """The maps; no cell within `extents` (see `ops.padding`) may depend on what lies beyond."""
    ...


KINDS = {
  "resnet": ResNet,
  "clip_resnet": ClipResNet,
}


def make_backbone(config: ml_collections.FrozenConfigDict, dtype, remat: bool = False) -> Backbone:
  """The backbone that a config's `model.backbone` describes.

  Raises:
    ValueError: an unknown kind, or one without `remat` is asked for it.
  """
  if config.kind not in KINDS:
    raise ValueError(f"model.backbone.kind is {config.kind!r}; expected one of {', '.join(KINDS)}.")
  kind = KINDS[config.kind]
  names = {field.name for field in dataclasses.fields(kind)}
  fields = {name: value for name, value in config.items() if name in names}
  if remat:
    if "remat" not in names:
      raise ValueError(f"model.remat: backbones of kind {config.kind!r} have no such field.")
    fields["remat"] = True
  return kind(**fields, dtype=dtype)
