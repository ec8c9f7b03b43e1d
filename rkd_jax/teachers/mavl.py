"""MAVL as a source of proposals: the class-agnostic boxes of RKD, the named ones of ILS."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from rkd_jax.files import checksums
from rkd_jax.frozen.mavl import RKD_QUERIES, Mavl, select_regions
from rkd_jax.models.mavl.model import RELEASED, MvitConfig
from rkd_jax.teachers.proposals import Proposed


class MvitProposer:
  """A `Proposer` that pools MAVL's answers to RKD's queries, and an `Answerer`, which asks for
  every class by name.

  Calls from several threads use all local devices.

  Args:
    checkpoint, vocabulary, merges: files, see `Mavl.load`, also for what it raises.
    top: most proposals per image.
    config, short_side: of `Mavl`.
  """

  in_workers: ClassVar[bool] = False

  def __init__(
    self,
    checkpoint: str,
    vocabulary: str,
    merges: str,
    top: int = 5,
    config: MvitConfig = RELEASED,
    short_side: int = 800,
  ):
    self.mavl = Mavl.load(checkpoint, vocabulary, merges, config, short_side)
    self._files = {"checkpoint": checkpoint, "vocabulary": vocabulary, "merges": merges}
    self._pooling = {"per_query": 50, "nms_threshold": 0.5, "top": top}
    self._model = {"short_side": short_side, "config": dataclasses.asdict(config)}

  def propose(self, image: UInt8[np.ndarray, "h w 3"]) -> Proposed:
    """At most `top` boxes, best first, not clipped to the image."""
    return self.answer(image, ())[0]

  def answer(
    self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]
  ) -> tuple[Proposed, Proposed]:
    """Proposals, and MAVL's best box for "every <name>" of each name; raises what `infer` does."""
    answers = self.mavl.infer(image, [*RKD_QUERIES, *(f"every {name}" for name in names)])
    boxes, scores = np.zeros((len(names), 4), np.float32), np.zeros(len(names), np.float32)
    for i, (found, found_scores) in enumerate(answers[len(RKD_QUERIES) :]):
      if len(found):
        best = found_scores.argmax()
        boxes[i], scores[i] = found[best], found_scores[best]
    return select_regions(answers[: len(RKD_QUERIES)], **self._pooling), (boxes, scores)

  def describe(self) -> dict[str, Any]:
    """Settings, and checksums in place of the files' paths."""
    files = {name: checksums.of_file(path) for name, path in self._files.items()}
    name = type(self).__name__
    fixed = {"queries": RKD_QUERIES, "truncate": True}
    return {"name": name, **files, **self._pooling, **self._model, **fixed}
