"""CLIP's word on the boxes that a detector is about to find, and how much it counts."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from rkd_jax.files import storage
from rkd_jax.frozen.clip import FrozenClip, RegionEncoder, load_clip
from rkd_jax.frozen.regions import crop_regions
from rkd_jax.models.clip.model import MAX_LOGIT_SCALE
from rkd_jax.models.detector import fusion
from rkd_jax.structures import Batch

KINDS = ("projection", "crops")
# What errors call the CLIP of kind "crops".
FUSION_CLIP = "The CLIP of model.test.fusion.clip"
_CROPS_AT_ONCE = 64


class Fusion:
  """`config.model.test.fusion`, ready for use; CLIP is opened when the first image needs it.

  Attributes:
    kind: "projection" (scores of the distilled projection) or "crops" (CLIP on crops of boxes).
  """

  def __init__(self, config: Any):
    """`config` is that of a detector whose fusion is on.

    Raises:
      ValueError: an unknown kind, an exponent outside [0, 1], no crop, a CLIP that is not there, or
        a detector whose classifier is the distilled projection itself.
    """
    own = config.model.test.fusion
    self.kind, self._settings = own.kind, own
    key = "model.test.fusion"
    if own.kind not in KINDS:
      raise ValueError(f"{key}.kind is {own.kind!r}; expected one of {', '.join(KINDS)}, or ''.")
    for name in ("base", "novel"):
      if not 0 <= own[name] <= 1:
        raise ValueError(f"{key}.{name} is {own[name]}; expected an exponent from 0 to 1.")
    if own.kind == "projection" and not config.model.classifier.weight_transfer:
      raise ValueError(
        f"{key}.kind is 'projection', but without weight transfer the distilled projection is the "
        "classifier: there are no other scores. Use a detector with weight transfer, or 'crops'."
      )
    if own.kind == "crops":
      if own.crops < 1 or own.temperature < 0:
        raise ValueError(
          f"{key} has crops={own.crops} and temperature={own.temperature}; expected at least one "
          "crop, and a temperature above 0, or 0 for CLIP's own."
        )
      if not own.clip or not storage.path(own.clip).exists():
        raise ValueError(
          f"{key}.kind is 'crops', but {key}.clip is {own.clip!r}, which is not there: give the "
          "CLIP whose text embeddings the detector has, a run's folder or a file of weights."
        )
    self._width = config.model.classifier.embedding_dim

  def exponents(self, classes: int, seen: Bool[np.ndarray, "c"] | None) -> Float[np.ndarray, "c"]:
    """How much the other scores count for each class: `base` where it was `seen` with boxes.

    None is where that is not known; all count as novel, then.
    """
    own = self._settings
    if seen is None:
      return np.full(classes, own.novel, np.float32)
    padded = np.pad(np.asarray(seen, bool), (0, classes - len(seen)))
    return np.where(padded, own.base, own.novel).astype(np.float32)

  def crop_scores(
    self,
    batch: Batch,
    boxes: Float[np.ndarray, "b k 4"],
    valid: Bool[np.ndarray, "b k"],
    class_embeddings: Float[np.ndarray, "c e"],
    class_valid: Bool[np.ndarray, "c"] | None = None,
  ) -> Float[np.ndarray, "b k c"]:
    """CLIP's probabilities of the classes for boxes in network-input pixels; 0 where not `valid`.

    Crops are of the images as the network is given them.
    """
    own, (encoder, temperature) = self._settings, self._encoder
    valid = valid & np.asarray(batch.valid)[:, None]  # not of images that only fill a batch up
    crops = [
      crop_regions(image[:height, :width], own_boxes[keep], encoder.image_size, own.context)
      for image, (height, width), own_boxes, keep in zip(batch.images, batch.sizes, boxes, valid)
    ]
    embeddings = np.zeros((*valid.shape, class_embeddings.shape[1]), np.float32)
    embeddings[valid] = encoder.embed(np.concatenate(crops))
    scores = self._scores(embeddings, class_embeddings, temperature, class_valid)
    return np.where(valid[..., None], jax.device_get(scores), 0.0)

  @functools.cached_property
  def clip(self) -> FrozenClip:
    """The CLIP of kind "crops"; ValueError if its embeddings have another width."""
    place = self._settings.clip
    clip = load_clip(place)
    if clip.embedding_dim != self._width:
      raise ValueError(
        f"model.test.fusion.clip: the embeddings of {place} are {clip.embedding_dim} wide, the "
        f"detector's {self._width}: use the CLIP that it was trained with."
      )
    return clip

  @functools.cached_property
  def _encoder(self) -> tuple[RegionEncoder, float]:
    """The image tower and the temperature."""
    params: Mapping[str, Any] = self.clip.variables["params"]
    scale = float(np.exp(np.asarray(params["logit_scale"])))
    temperature = self._settings.temperature or min(scale, MAX_LOGIT_SCALE)
    return RegionEncoder(self.clip, _CROPS_AT_ONCE), temperature

  @functools.cached_property
  def _scores(self):
    return jax.jit(fusion.crop_scores)


def kind_of(config: Any) -> str:
  """The kind of fusion of a detector's config; "" where it is off."""
  own = config.model.test.get("fusion")
  return (own and own.kind) or ""


def open_fusion(config: Any) -> Fusion | None:
  """The fusion of a detector's config, or None where it is off, as in configs of before it."""
  return Fusion(config) if kind_of(config) else None
