"""What the teachers say about one image: a pure function of the image, in three parts.

`prepare` asks the proposer and cuts out the regions, CLIP embeds the crops of several images at
once, `result` makes the record of `records.results` from both.  NumPy only.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rkd_jax.frozen.regions import crop_regions
from rkd_jax.ops.host import unit
from rkd_jax.records.index import checksum
from rkd_jax.records.sources import Record, decode_image
from rkd_jax.teachers.proposals import Answerer, Proposer, PseudoBoxes, Recorded


@dataclasses.dataclass(frozen=True)
class Options:
  """What decides the results, beside the teachers.

  Attributes:
    regions: K, the proposals per image that are kept for RKD.
    pseudo_box_proposals: the proposals that compete for each label where CLIP chooses.
    pseudo_box_threshold: a pseudo box needs a score above it.
    logit_scale: CLIP similarities are multiplied by it before the softmax over the class names.
    objectness_power: how much the proposal's own score counts in CLIP's choice.
    context: crops are widened by this fraction on every side.
    crop_mode: see `crop_regions`.
  """

  regions: int = 5
  pseudo_box_proposals: int = 15
  pseudo_box_threshold: float = 0.0
  logit_scale: float = 50.0
  objectness_power: float = 0.5
  context: float = 0.12
  crop_mode: str = "square"

  def __post_init__(self):
    for name in ("regions", "pseudo_box_proposals"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
    if self.context < 0:
      raise ValueError(f"context is {self.context}; expected a fraction of at least 0")
    # Found by `crop_regions` only, a typing error would look like unreadable images.
    if self.crop_mode not in ("square", "clip"):
      raise ValueError(f"crop_mode is {self.crop_mode!r}; use 'square' or 'clip'")


class Prepared(NamedTuple):
  """An image on its way to the encoder.

  `checksum` is that of the encoded image.  `answers` are its pseudo boxes where those are known;
  else (None) CLIP chooses among the boxes.  `notes` say why an image could not be read or boxes
  were dropped.
  """

  image_id: int
  checksum: int
  labels: Int[np.ndarray, "l"]
  boxes: Float[np.ndarray, "k 4"]
  scores: Float[np.ndarray, "k"]
  crops: UInt8[np.ndarray, "k s s 3"]
  answers: PseudoBoxes | None
  notes: dict[str, Any]


# An image, or why there is none.
Decoded = UInt8[np.ndarray, "h w 3"] | str

_NO_BOXES = PseudoBoxes(
  np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
)


def decode(record: Record) -> Decoded:
  """The image of a record, or why it cannot be read."""
  try:
    return decode_image(record)
  except ValueError as error:
    return str(error)


def prepare(
  record: Record,
  proposer: Proposer,
  class_names: Sequence[str],
  size: int,
  options: Options,
  decoded: Decoded | None = None,
) -> Prepared:
  """Proposals of one image and their crops.

  Boxes that share no whole pixel with the image are dropped and noted.  An image that cannot be
  read, or that the proposer refuses, has no proposals and a note.

  Args:
    class_names: of the data set; only an `Answerer`, which is asked for the labels by name, needs
      them.
    size: side of the crops.
    decoded: the image, where it is decoded already.
  """
  image = decode(record) if decoded is None else decoded
  dropped, notes = [], {}
  try:
    if isinstance(image, str):
      raise ValueError(image)
    if isinstance(proposer, Recorded):
      (boxes, scores), answers = proposer.recall(record.image_id)
    elif isinstance(proposer, Answerer):
      names = [class_names[i] for i in record.labels]
      (boxes, scores), (named, best) = proposer.answer(image, names)
      answers = PseudoBoxes(named, record.labels, best)
    else:
      (boxes, scores), answers = proposer.propose(image), None
  except ValueError as error:
    (boxes, _, scores), answers = _NO_BOXES, None
    image, notes["unreadable"] = np.zeros((1, 1, 3), np.uint8), str(error)
  kept = _usable(boxes, image.shape[:2], "region", dropped)
  count = options.regions
  # Without labels there is no pseudo box to choose.
  if answers is None and len(record.labels):
    count = max(count, options.pseudo_box_proposals)
  boxes, scores = boxes[kept][:count], scores[kept][:count]
  if answers is not None:
    answers = _select(answers, answers.scores > options.pseudo_box_threshold)
    answers = _select(answers, _usable(answers.boxes, image.shape[:2], "pseudo box", dropped))
  elif not len(boxes):
    answers = _NO_BOXES
  crops = crop_regions(image, boxes, size, options.context, options.crop_mode)
  if dropped:
    notes["dropped_boxes"] = dropped
  return Prepared(
    record.image_id, checksum(record.image), record.labels, boxes, scores, crops, answers, notes
  )


def _select(found: PseudoBoxes, kept: Bool[np.ndarray, "p"]) -> PseudoBoxes:
  return PseudoBoxes(*(column[kept] for column in found))


def _usable(
  boxes: Float[np.ndarray, "k 4"], size: tuple[int, int], name: str, dropped: list[str]
) -> Bool[np.ndarray, "k"]:
  """Which boxes, rounded as crops are, share a whole pixel with an image of (height, width)."""
  height, width = size
  finite = np.all(np.isfinite(boxes), axis=1)
  rounded = np.round(np.where(finite[:, None], boxes, 0))
  inside = np.clip(rounded, 0, [width, height, width, height])
  usable = np.all(inside[:, 2:] - inside[:, :2] >= 1, axis=1)
  for i in np.flatnonzero(~usable):
    dropped.append(f"{name} {boxes[i].tolist()} is empty or outside the image {width}x{height}")
  return usable


def result(
  image: Prepared,
  embeddings: Float[np.ndarray, "k d"],
  class_embeddings: Float[np.ndarray, "c d"] | None,
  options: Options,
) -> dict[str, np.ndarray]:
  """The teacher record of one image; see `rkd_jax.records.results.FIELDS`."""
  kept, pseudo = slice(options.regions), image.answers
  if pseudo is None:
    competing = slice(options.pseudo_box_proposals)
    chosen, labels, scores = choose_pseudo_boxes(
      embeddings[competing], image.scores[competing], image.labels, class_embeddings, options
    )
    pseudo = PseudoBoxes(image.boxes[chosen], labels, scores)
  return {
    "regions/boxes": image.boxes[kept],
    "regions/scores": image.scores[kept],
    "regions/clip_embeddings": embeddings[kept],
    "pseudo_boxes/boxes": pseudo.boxes,
    "pseudo_boxes/labels": pseudo.labels,
    "pseudo_boxes/scores": pseudo.scores,
  }


def choose_pseudo_boxes(
  embeddings: Float[np.ndarray, "k d"],
  objectness: Float[np.ndarray, "k"],
  labels: Int[np.ndarray, "l"],
  class_embeddings: Float[np.ndarray, "c d"],
  options: Options,
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"], Float[np.ndarray, "p"]]:
  """For each label the proposal that is most likely of its class.

  CLIP's probability is taken over all class names, so that a proposal that resembles everything a
  little, as background does, loses to one that resembles the label alone; it is multiplied by
  objectness ** objectness_power.

  Returns:
    Index of the proposal, label and score in [0, 1], in the order of `labels`, for each whose score
    is above the threshold.
  """
  rows, columns = (unit(np.asarray(e, np.float64)) for e in (embeddings, class_embeddings))
  similarities = rows @ columns.T
  likelihood = np.exp(options.logit_scale * (similarities - similarities.max(1, keepdims=True)))
  probabilities = likelihood / likelihood.sum(1, keepdims=True)
  scores = probabilities[:, labels] * objectness[:, None] ** options.objectness_power
  chosen, best = scores.argmax(0), scores.max(0)
  kept = best > options.pseudo_box_threshold
  return chosen[kept], labels[kept].astype(np.int64), best[kept].astype(np.float32)
