"""MAVL as a source of proposals: the class-agnostic boxes of RKD."""

import dataclasses
import functools

import numpy as np
from jaxtyping import UInt8

from rkd_jax.mvit.infer import RKD_QUERIES, Mavl, select_regions
from rkd_jax.mvit.model import RELEASED, MvitConfig
from rkd_jax.proposals import Proposed

_load = functools.lru_cache(maxsize=1)(Mavl.load)


@dataclasses.dataclass(frozen=True)
class MvitProposer:
  """A `Proposer` that pools MAVL's answers to several queries; see `select_regions`.

  Holds settings only; the model is loaded on first use, once per process, so that the proposer
  itself is cheap to pickle and to describe.

  Attributes:
    checkpoint: the released .pth.
    vocabulary: vocab.json of roberta-base.
    merges: merges.txt of roberta-base.
    queries: what each image is asked for.
    top: most proposals per image.
    per_query: boxes of each query that are pooled.
    nms_threshold: greatest IoU between two proposals.
    truncate: cut coordinates to whole pixels towards zero, as the original does.
    short_side: of the resized image, in pixels.
    config: sizes of the model.
  """

  checkpoint: str
  vocabulary: str
  merges: str
  queries: tuple[str, ...] = RKD_QUERIES
  top: int = 5
  per_query: int = 50
  nms_threshold: float = 0.5
  truncate: bool = True
  short_side: int = 800
  config: MvitConfig = RELEASED

  @property
  def mavl(self) -> Mavl:
    """The model; see `Mavl.load` for what loading raises."""
    return _load(self.checkpoint, self.vocabulary, self.merges, self.config, self.short_side)

  def propose(self, images: UInt8[np.ndarray, "n h w 3"]) -> list[Proposed]:
    """At most `top` boxes per image, best first, not clipped to the image.

    Raises:
      ValueError: if `images` is not uint8 [n, h, w, 3].
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
      raise ValueError(
        f"propose() takes uint8 images [n, h, w, 3], got {images.dtype} {list(images.shape)}: "
        "decode to RGB and add a batch axis."
      )
    answers = (self.mavl.infer(image, self.queries, self.truncate) for image in images)
    return [select_regions(a, self.per_query, self.nms_threshold, self.top) for a in answers]
