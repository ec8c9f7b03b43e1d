"""Class-agnostic box proposals: what a source of them is, and what it yields."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rkd_jax.ops.host import iou

Proposed = tuple[Float[np.ndarray, "k 4"], Float[np.ndarray, "k"]]


class Proposer(Protocol):
  """Whatever yields class-agnostic boxes: region growing, a multi-modal ViT, an RPN.

  Attributes:
    in_workers: it is cheap to pickle and needs no accelerator, so that worker processes run it;
      else it is called from several threads of the main process.
  """

  in_workers: ClassVar[bool]

  def propose(self, images: UInt8[np.ndarray, "n h w 3"]) -> list[Proposed]:
    """Per image XYXY pixel boxes [k, 4] and scores [k] in [0, 1], best first; k varies, even 0."""
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

  def recall(self, image_id: int) -> tuple[Proposed, "PseudoBoxes"]:
    """The regions and the pseudo boxes of an image."""
    ...


class PseudoBoxes(NamedTuple):
  """Boxes for some of an image's labels."""

  boxes: Float[np.ndarray, "p 4"]
  labels: Int[np.ndarray, "p"]
  scores: Float[np.ndarray, "p"]


def checked_images(images: np.ndarray) -> UInt8[np.ndarray, "n h w 3"]:
  """The argument of `propose`.

  Raises:
    ValueError: it is not uint8 [n, h, w, 3].
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
    raise ValueError(
      f"propose() takes uint8 images [n, h, w, 3], got {images.dtype} {list(images.shape)}: "
      "decode to RGB and add a batch axis."
    )
  return images


def recalled(
  proposed: Sequence[Float[np.ndarray, "_ 4"]],
  truth: Sequence[Float[np.ndarray, "_ 4"]],
  threshold: float = 0.5,
) -> Bool[np.ndarray, "g"]:
  """For each true box of all images, whether a proposal of its image overlaps it enough."""
  hits = [np.zeros(0, bool)]
  for boxes, true_boxes in zip(proposed, truth, strict=True):
    hits.append((iou(true_boxes, boxes) >= threshold).any(1))
  return np.concatenate(hits)
