"""Class-agnostic box proposals: what a source of them is, and what it yields."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

Proposed = tuple[Float[np.ndarray, "k 4"], Float[np.ndarray, "k"]]


class PseudoBoxes(NamedTuple):
  """Boxes for some of an image's labels."""

  boxes: Float[np.ndarray, "p 4"]
  labels: Int[np.ndarray, "p"]
  scores: Float[np.ndarray, "p"]


class Proposer(Protocol):
  """Whatever yields class-agnostic boxes: region growing, a multi-modal ViT, an RPN.

  Attributes:
    in_workers: it is cheap to pickle and needs no accelerator, so that worker processes run it;
      else it is called from several threads of the main process.
  """

  in_workers: ClassVar[bool]

  def propose(self, image: UInt8[np.ndarray, "h w 3"]) -> Proposed:
    """XYXY pixel boxes [k, 4] and scores [k] in [0, 1], best first; k varies, even 0."""
    ...

  def describe(self) -> dict[str, Any]:
    """Name, settings and checksums: JSON values that decide the proposals."""
    ...


@runtime_checkable
class Answerer(Protocol):
  """A proposer that also finds named things, in the same look at the image."""

  def answer(
    self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]
  ) -> tuple[Proposed, Proposed]:
    """What `propose` gives, and for each name its best box with a score, 0 where there is none."""
    ...


@runtime_checkable
class Recorded(Protocol):
  """Proposals that are known already, by image id."""

  def recall(self, image_id: int) -> tuple[Proposed, PseudoBoxes]:
    """The regions and the pseudo boxes of an image."""
    ...


def check_image(image: np.ndarray) -> None:
  """Raises ValueError if the argument of `propose` is not uint8 [h, w, 3]."""
  if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
    raise ValueError(
      f"propose() takes a uint8 image [h, w, 3], got {image.dtype} {list(image.shape)}: "
      "decode to RGB."
    )
