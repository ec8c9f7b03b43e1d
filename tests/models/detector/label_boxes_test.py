"""The box that a label supervises, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.models.detector import label_boxes
from rkd_jax.structures import Batch, Proposals, PseudoBoxes, Regions

IMAGES, BOXES, CLASSES, LABELS = 40, 6, 3, 4
CHOICES = label_boxes.CHOICES[1:]


def made(seed=0, ties=True):
  """Images whose boxes have sides of few pixels; of some none is valid, nor any label of others."""
  rng = np.random.default_rng(seed)
  corners = rng.integers(0, 4, (IMAGES, BOXES, 2)) if ties else rng.random((IMAGES, BOXES, 2))
  sides = rng.integers(1, 4, corners.shape) if ties else 1 + rng.random(corners.shape)
  boxes = np.concatenate([corners, corners + sides], axis=2).astype(np.float32)
  valid = (rng.random((IMAGES, BOXES)) < 0.6) & (np.arange(IMAGES) % 5 > 0)[:, None]
  label_valid = (rng.random((IMAGES, LABELS)) < 0.7) & (np.arange(IMAGES) % 7 > 0)[:, None]
  sizes = rng.integers(3, 6, (IMAGES, 2))
  batch = Batch(
    images=np.zeros((IMAGES, 6, 6, 3), np.uint8),
    sizes=sizes,
    original_sizes=sizes,
    image_ids=np.arange(IMAGES),
    valid=np.ones(IMAGES, bool),
    regions=Regions(boxes, np.zeros((IMAGES, BOXES, 1), np.float32), valid),
    pseudo_boxes=PseudoBoxes(
      boxes[:, :LABELS], rng.integers(0, CLASSES, (IMAGES, LABELS)), label_valid
    ),
  )
  proposals = Proposals(boxes[:, ::-1], np.zeros((IMAGES, BOXES), np.float32), valid[:, ::-1])
  shape = (IMAGES, BOXES, CLASSES + 1)
  logits = rng.integers(0, 3, shape) if ties else rng.normal(size=shape)
  return batch, proposals, logits.astype(np.float32)


def chosen(choice, batch, proposals, logits):
  def run(batch, proposals, logits):
    boxes, valid = label_boxes.candidates(choice, batch, proposals)
    return label_boxes.of_labels(
      choice, boxes, logits[:, : boxes.shape[1]], valid, batch.pseudo_boxes
    )

  return jax.device_get(jax.jit(run)(batch, proposals, logits))


def looped(choice, batch, proposals, logits, image, label):
  """The box of a label that counts, or None."""
  own = batch.regions if choice == "largest_region" else proposals
  height, width = batch.sizes[image]
  if choice == "image":
    return [0, 0, width, height]
  best, most = None, -np.inf
  for row in range(BOXES):
    if not own.valid[image, row]:
      continue
    x1, y1, x2, y2 = own.boxes[image, row]
    if choice == "best_proposal":
      box, value = [x1, y1, x2, y2], logits[image, row, batch.pseudo_boxes.classes[image, label]]
    else:
      box = [min(x1, width), min(y1, height), min(x2, width), min(y2, height)]
      value = (box[2] - box[0]) * (box[3] - box[1])
    if value > most:  # the first of equal ones
      best, most = box, value
  return best


@pytest.mark.parametrize("choice", CHOICES)
def test_each_choice_is_that_of_a_plain_loop(choice):
  batch, proposals, logits = made()
  boxes, valid = chosen(choice, batch, proposals, logits)
  assert boxes.shape == (IMAGES, LABELS, 4)
  counted = 0
  for image in range(IMAGES):
    for label in range(LABELS):
      expected = looped(choice, batch, proposals, logits, image, label)
      counts = batch.pseudo_boxes.valid[image, label] and expected is not None
      assert valid[image, label] == counts
      if counts:
        counted += 1
        np.testing.assert_array_equal(boxes[image, label], expected)
  assert 20 < counted < batch.pseudo_boxes.valid.size and np.isfinite(boxes).all()


@pytest.mark.parametrize("choice", label_boxes.OF_PROPOSALS)
def test_the_order_of_proposals_changes_no_box(choice):
  batch, proposals, logits = made(ties=False)
  expected, counts = chosen(choice, batch, proposals, logits)
  order = np.random.default_rng(1).permutation(BOXES)
  proposals = jax.tree.map(lambda x: x[:, order], proposals)
  boxes, valid = chosen(choice, batch, proposals, logits[:, order])
  np.testing.assert_array_equal(valid, counts)
  np.testing.assert_array_equal(boxes[valid], expected[valid])
  assert valid.sum() > 20


def test_padding_is_chosen_by_no_label():
  """However large it is, and however high its logit."""
  batch, proposals, logits = made()
  huge = np.float32([0, 0, 5, 5])
  fill = ~proposals.valid[..., None]
  padded = proposals.replace(boxes=np.where(fill, huge, proposals.boxes))
  for choice in label_boxes.OF_PROPOSALS:
    expected, counts = chosen(choice, batch, proposals, logits)
    boxes, valid = chosen(choice, batch, padded, np.where(fill, 9.0, logits))
    np.testing.assert_array_equal(valid, counts)
    np.testing.assert_array_equal(boxes[valid], expected[valid])


def test_pseudo_boxes_are_clipped_and_stay_what_they_are():
  batch, _, logits = made()
  boxes, valid = label_boxes.candidates("pseudo", batch, None)
  limits = np.tile(batch.sizes[:, None, ::-1], 2)
  np.testing.assert_array_equal(boxes, np.minimum(batch.pseudo_boxes.boxes, limits))
  rows, counts = label_boxes.of_labels("pseudo", logits, logits, valid, batch.pseudo_boxes)
  assert rows is logits and counts is None


def test_logits_of_the_chosen_alone_have_a_gradient():
  batch, proposals, logits = made(ties=False)

  def total(logits):
    rows, valid = label_boxes.of_labels(
      "best_proposal", logits, logits, jnp.asarray(proposals.valid), batch.pseudo_boxes
    )
    return jnp.sum(jnp.where(valid[..., None], rows, 0.0))

  expected = np.zeros_like(logits)
  for image in range(IMAGES):
    rows = np.flatnonzero(proposals.valid[image])
    for label in np.flatnonzero(batch.pseudo_boxes.valid[image]):
      if len(rows):
        own = logits[image, rows, batch.pseudo_boxes.classes[image, label]]
        expected[image, rows[own.argmax()]] += 1
  assert expected.max() > 1  # labels may share a proposal
  np.testing.assert_array_equal(jax.jit(jax.grad(total))(logits), expected)


@pytest.mark.parametrize(
  "choice, has_regions, message",
  [
    ("largest", True, r"loss\.ils\.boxes is 'largest'; expected one of 'pseudo', 'image', "),
    ("largest_region", False, r"but image batches have no regions: set data\.image\.max_regions"),
  ],
)
def test_what_cannot_be_chosen_is_refused(choice, has_regions, message):
  batch, proposals, _ = made()
  batch = batch if has_regions else batch.replace(regions=None)
  with pytest.raises(ValueError, match=message):
    label_boxes.candidates(choice, batch, proposals)
