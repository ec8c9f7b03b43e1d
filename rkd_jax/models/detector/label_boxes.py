"""Which box a label of an image supervises in image steps: `config.loss.ils.boxes`.

  pseudo            the teacher's own box of the label
  image             the whole image
  largest_region    the largest of the teacher's regions
  largest_proposal  the largest of the detector's proposals (Zhou et al. 2022, Detic's max-size)
  best_proposal     for each label the proposal with the highest logit of its class (max-score)

All but the first are candidates of an image, of which a label takes the one with the highest logit
of its class.  A single candidate is shared by all labels of the image.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rkd_jax.machine.target import over_images
from rkd_jax.ops import boxes as boxes_lib
from rkd_jax.structures import Arr, Batch, Proposals, PseudoBoxes

PSEUDO = "pseudo"
OF_PROPOSALS = ("largest_proposal", "best_proposal")
CHOICES = (PSEUDO, "image", "largest_region", *OF_PROPOSALS)


def check(choice: str, has_regions: bool) -> None:
  """Raises ValueError for a choice that is unknown, or of regions where image batches have none."""
  if choice not in CHOICES:
    known = ", ".join(map(repr, CHOICES))
    raise ValueError(f"loss.ils.boxes is {choice!r}; expected one of {known}.")
  if choice == "largest_region" and not has_regions:
    raise ValueError(
      f"loss.ils.boxes is {choice!r}, but image batches have no regions: set "
      "data.image.max_regions and data.teachers, or loss.ils.boxes='pseudo'."
    )


def candidates(
  choice: str, batch: Batch, proposals: Proposals | None
) -> tuple[Float[Array, "b r 4"], Bool[Array, "b r"]]:
  """The boxes that the labels of an image choose from, and which of them are real.

  Of `PSEUDO` they are those of the labels themselves.  `proposals` are read by `OF_PROPOSALS`.

  Raises:
    ValueError: see `check`.
  """
  check(choice, batch.regions is not None)
  if choice == PSEUDO:
    pseudo = batch.pseudo_boxes
    return jax.vmap(boxes_lib.clip)(pseudo.boxes, batch.sizes), pseudo.valid
  if choice == "image":
    height, width = jnp.moveaxis(jnp.asarray(batch.sizes, jnp.float32), 1, 0)
    zero = jnp.zeros_like(height)
    boxes = jnp.stack([zero, zero, width, height], axis=1)[:, None]
    return boxes, jnp.ones(boxes.shape[:2], bool)
  if choice == "best_proposal":
    return proposals.boxes, proposals.valid
  own = batch.regions if choice == "largest_region" else proposals

  def one_image(boxes, valid, size):
    boxes = boxes_lib.clip(boxes, size)
    index = largest(boxes, valid)[None]
    return boxes[index], valid[index]

  return over_images(one_image, own.boxes, own.valid, batch.sizes)


def largest(boxes: Float[Arr, "r 4"], valid: Bool[Arr, "r"]) -> Int[Array, ""]:
  """The first of the valid boxes with the largest area; 0 where none is valid."""
  return jnp.argmax(jnp.where(valid, boxes_lib.area(boxes), -jnp.inf))


def highest(
  logits: Float[Arr, "r c"], valid: Bool[Arr, "r"], classes: Int[Arr, "l"]
) -> Int[Array, "l"]:
  """For each label the first valid candidate with the highest logit of its class, else 0."""
  own = jnp.where(valid[:, None], jnp.asarray(logits)[:, classes], -jnp.inf)
  return jnp.argmax(own, axis=0)


def of_labels(
  choice: str,
  rows: Float[Array, "b r d"],
  logits: Float[Array, "b r c"],
  valid: Bool[Array, "b r"],
  labels: PseudoBoxes,
) -> tuple[Float[Array, "b l d"], Bool[Array, "b l"] | None]:
  """What each label takes of `rows`, which say something of the candidates; and if it counts.

  A label of an image without a valid candidate does not.  Of `PSEUDO` the rows are returned as they
  are, and None: those count that are valid in the batch.
  """
  if choice == PSEUDO:
    return rows, None

  def one_image(rows, logits, valid, classes, label_valid):
    return rows[highest(logits, valid, classes)], label_valid & jnp.any(valid)

  return over_images(one_image, rows, logits, valid, labels.classes, labels.valid)


def by_every_choice(
  model: Any, batch: Batch, class_embeddings: Float[Array, "c e"]
) -> dict[str, PseudoBoxes]:
  """The box of each label by each of `CHOICES`; without regions there is no largest one.

  `model` is a bound `RCNN`.
  """
  features = model.features(batch.images, batch.sizes)
  rpn = model.rpn_outputs(features, batch.sizes)
  proposals = model.propose(rpn, features, batch.sizes, train=True)
  logits, _, _ = model.roi_outputs(features, batch.sizes, proposals.boxes, class_embeddings)
  labels, found = batch.pseudo_boxes, {}
  for choice in CHOICES:
    if choice == "largest_region" and batch.regions is None:
      continue
    boxes, valid = candidates(choice, batch, proposals)
    # One candidate needs no logits.
    own = logits if choice == "best_proposal" else logits[:, : boxes.shape[1]]
    boxes, valid = of_labels(choice, boxes, own, valid, labels)
    valid = labels.valid if valid is None else valid
    found[choice] = PseudoBoxes(boxes=boxes, classes=jnp.asarray(labels.classes), valid=valid)
  return found
