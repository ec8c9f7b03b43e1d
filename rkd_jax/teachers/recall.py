"""How many of the annotated boxes the regions hold, said while there is still time to stop."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rkd_jax.ops.host import iou
from rkd_jax.records.sources import Source
from rkd_jax.teachers.images import Prepared

# Below, RKD mostly compares what is no object.
LEAST = 0.3
_MAVL = "MAVL (--proposals=mvit --checkpoint=... --vocabulary=... --merges=...)"
_BETTER = (
  "Better proposals are those of the RPN of a detector that was trained on such images "
  f"(--proposals=rpn --checkpoint=RUN, or --root with a run in ROOT/base) and of {_MAVL}."
)
# By the name of the proposer that did not find enough.
_REMEDIES = {
  "DetectorProposer": (
    "Its detector may need longer training or pre-trained weights to start from; better proposals "
    f"are those of {_MAVL}."
  ),
  "MvitProposer": "MAVL's are the best that are known here.",
}
# Images after which it is said for the first time.
FIRST = 100


@dataclasses.dataclass
class Recall:
  """Counts of annotated boxes: all, and those that a region overlaps at IoU 0.5."""

  boxes: int = 0
  held: int = 0

  def add(self, boxes: Float[np.ndarray, "g 4"], regions: Float[np.ndarray, "k 4"]) -> None:
    """Counts the annotated boxes of one image."""
    self.boxes += len(boxes)
    self.held += int((iou(boxes, regions) >= 0.5).any(1).sum())

  @property
  def part(self) -> float | None:
    """The part that is held; None where there are no boxes."""
    return self.held / self.boxes if self.boxes else None


def told(part: float | None, split: str, metadata: Mapping[str, Any], of: str) -> str:
  """The recall in a sentence, with a warning and the remedies where it is below `LEAST`.

  Args:
    part: of the annotated boxes that is held, None where there are none.
    split: of the images.
    metadata: of the results, see `pipeline.describe`.
    of: which images were counted.
  """
  if part is None:
    return f"{split}: {of} have no annotated boxes to compare the regions with."
  line = (
    f"{split}: the regions, at most {metadata['regions']} an image, hold {part:.1%} of the "
    f"annotated boxes of {of} at IoU 0.5."
  )
  if part >= LEAST:
    return line
  return (
    f"{line}\nWARNING: that is less than {LEAST:.0%}: RKD would learn from what is mostly no "
    f"object. {_REMEDIES.get(metadata['proposer']['name'], _BETTER)} --regions keeps more of an "
    "image. Other settings need another --output, or this one removed."
  )


class FirstLook:
  """Says the recall once, after the first `FIRST` images of a run of `pipeline.precompute`."""

  def __init__(
    self, source: Source, split: str, metadata: Mapping[str, Any], say: Callable[[str], None]
  ):
    self._source, self._split, self._metadata, self._say = source, split, metadata, say
    self._recall, self._images = Recall(), 0

  def __call__(self, positions: Sequence[int], images: Sequence[Prepared]) -> None:
    """Takes a group of images with their positions in the source."""
    if self._images >= FIRST:
      return
    for position, image in zip(positions, images):
      record = self._source[position]
      self._recall.add(record.boxes[~record.is_crowd], image.boxes[: self._metadata["regions"]])
    self._images += len(images)
    if self._images >= FIRST:
      of = f"the first {self._images} images"
      self._say(told(self._recall.part, self._split, self._metadata, of))
