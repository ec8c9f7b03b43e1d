"""MAVL as a source of proposals: the class-agnostic boxes of RKD, the named ones of ILS."""

import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from rkd_jax.files import checksums
from rkd_jax.frozen.mavl import RKD_QUERIES, Mavl, best_box, class_query, select_regions
from rkd_jax.models.mavl.model import RELEASED, MvitConfig
from rkd_jax.teachers.proposals import Proposed, checked_images

_load = functools.lru_cache(maxsize=1)(Mavl.load)
_loading = threading.Lock()


@dataclasses.dataclass(frozen=True)
class MvitProposer:
  """A `Proposer` that pools MAVL's answers to several queries (see `select_regions`) and an
  `Answerer`, which asks for every class by name.

  Holds settings only; the model is loaded on first use, once per process, so that the proposer
  itself is cheap to pickle and to describe.  Calls from several threads use all local devices.

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

  in_workers: ClassVar[bool] = False

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

  @classmethod
  def load(cls, checkpoint: str, vocabulary: str, merges: str) -> "MvitProposer":
    """One whose model is loaded already: a wrong file is not taken for unreadable images."""
    proposer = cls(checkpoint, vocabulary, merges)
    _ = proposer.mavl
    return proposer

  @property
  def mavl(self) -> Mavl:
    """The model; see `Mavl.load` for what loading raises."""
    # Of several threads only one may load it.
    with _loading:
      return _load(self.checkpoint, self.vocabulary, self.merges, self.config, self.short_side)

  def propose(self, images: UInt8[np.ndarray, "n h w 3"]) -> list[Proposed]:
    """At most `top` boxes per image, best first, not clipped to the image.

    Raises:
      ValueError: if `images` is not uint8 [n, h, w, 3], or they are extremely long.
    """
    return [self.answer(image, ())[0] for image in checked_images(images)]

  def answer(
    self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]
  ) -> tuple[Proposed, Proposed]:
    """Proposals, and MAVL's best box for "every <name>" of each name; the image is encoded once.

    Raises:
      ValueError: the image is not uint8 [h, w, 3], is empty or extremely long, or a name is too
        long.
    """
    queries = [*self.queries, *(class_query(name) for name in names)]
    answers = self.mavl.infer(image, queries, self.truncate)
    general, named = answers[: len(self.queries)], answers[len(self.queries) :]
    boxes, scores = np.zeros((len(names), 4), np.float32), np.zeros(len(names), np.float32)
    for i, found in enumerate(best_box(answer, 0.0) for answer in named):
      if found is not None:
        boxes[i], scores[i] = found
    proposed = select_regions(general, self.per_query, self.nms_threshold, self.top)
    return proposed, (boxes, scores)

  def describe(self) -> dict[str, Any]:
    """Settings, and checksums in place of the files' paths."""
    files = {key: checksums.of_file(getattr(self, key)) for key in _FILES}
    return {"name": type(self).__name__, **dataclasses.asdict(self), **files}


_FILES = ("checkpoint", "vocabulary", "merges")
