"""The composed detector at toy size."""

import copy
import functools

import jax
import numpy as np
import pytest
from flax import traverse_util

from rkd_jax.configs import common
from rkd_jax.losses import total as total_lib
from rkd_jax.models.detector import rcnn
from rkd_jax.structures import Batch, GroundTruth, Outputs, PseudoBoxes, Regions, Vocabulary
from rkd_jax.train.optimizer import frozen_mask, make_optimizer

CLASSES, DIM = 3, 8
SIZES = np.array([[40, 36], [34, 40]])
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
TEXT = RNG.normal(size=(CLASSES, DIM)).astype(np.float32)
HAS_BOXES = np.array([True, True, False])


@functools.cache
def config(weight_transfer=False):
  c = common.detector()
  m = c.model
  m.pixel_std = (58.0, 57.0, 58.0)
  m.backbone = {
    "kind": "resnet",
    "stage_blocks": (1, 1),
    "width": 8,
    "stem_width": 8,
    "norm": "frozen",
    "expansion": 2,
  }
  m.rpn.channels = 8
  m.rpn.anchor_sizes = ((12.0, 24.0),)
  m.rpn.anchor_ratios = (1.0,)
  m.rpn.train = {"pre_nms": 30, "post_nms": 10}
  m.rpn.test = {"pre_nms": 30, "post_nms": 10}
  m.roi.update(resolution=3, batch_size_per_image=12)
  m.box_head = {"kind": "fc", "layers": 1, "width": 16}
  m.classifier.embedding_dim = DIM
  m.classifier.temperature = 5.0  # so that no score saturates, which would leave ties
  m.classifier.weight_transfer = (4, 6) if weight_transfer else None
  m.test.update(score_threshold=0.3, detections=15, candidates=60)
  c.loss.rpn.batch_size_per_image = 24
  c.loss.images_per_group = {"box": 2, "image": 2}
  return c


@functools.cache
def parameters(weight_transfer=False):
  """Random kernels of the usual size, and frozen norms that shift: zeros do not stay zero."""
  c = config(weight_transfer)
  shapes = rcnn.abstract_params(c)
  rng = np.random.default_rng(1)

  def fill(path, leaf):
    if leaf.ndim > 1:
      return rng.normal(size=leaf.shape, scale=np.prod(leaf.shape[:-1]) ** -0.5).astype(np.float32)
    if path[-1] in ("scale", "var"):
      return np.ones(leaf.shape, np.float32)
    return rng.normal(size=leaf.shape, scale=0.1).astype(np.float32)

  flat = traverse_util.flatten_dict(shapes)
  return traverse_util.unflatten_dict({path: fill(path, leaf) for path, leaf in flat.items()})


def pad(x, rows, value=0):
  """Adds padding rows on axis 1."""
  return np.pad(x, [(0, 0), (0, rows)] + [(0, 0)] * (x.ndim - 2), constant_values=value)


def make_batch(canvas=40, padding=0, annotated=True):
  images = np.full((2, canvas, canvas, 3), 77, np.uint8)  # the model clears the padding
  images[:, :40, :40] = IMAGES
  boxes = np.array(
    [
      [[4, 4, 20, 26], [10, 8, 34, 30], [0, 0, 0, 0]],
      [[2, 6, 30, 30], [20, 4, 38, 20], [8, 8, 18, 20]],
    ],
    np.float32,
  )
  valid = np.array([[1, 1, 0], [1, 1, 1]], bool) & annotated
  embeddings = np.random.default_rng(2).normal(size=(2, 3, DIM)).astype(np.float32)
  classes = np.array([[0, 2, 0], [1, 1, 0]])
  boxes, valid, classes = pad(boxes, padding, 5), pad(valid, padding), pad(classes, padding, 1)
  return Batch(
    images=images,
    sizes=SIZES,
    original_sizes=2 * SIZES,
    image_ids=np.arange(2),
    valid=np.ones(2, bool),
    ground_truth=GroundTruth(boxes=boxes, classes=classes, valid=valid),
    regions=Regions(boxes=boxes + 1, embeddings=pad(embeddings, padding, 3), valid=valid),
    pseudo_boxes=PseudoBoxes(boxes=boxes, classes=classes, valid=valid),
  )


@functools.cache
def step(kind, gradient=True, ils_boxes="pseudo"):
  """Compiled (params, batch) -> ((total, losses), gradient), sampling in index order."""
  c = copy.deepcopy(config())
  c.loss.ils.boxes = ils_boxes
  model = rcnn.build(c)

  def loss(params, batch, text, has_boxes):
    variables = {"params": params}
    if kind == "box":
      outputs = model.apply(variables, batch, text, None, method=model.box_step)
      vocabulary = Vocabulary(embeddings=text, has_boxes=has_boxes)
      losses = total_lib.box_losses(outputs, batch, vocabulary, None, c.loss)
    else:
      outputs = model.apply(variables, batch, text, method=model.image_step)
      losses = total_lib.image_losses(outputs, batch, c.loss)
    return total_lib.total(losses), losses

  run = jax.jit(jax.value_and_grad(loss, has_aux=True) if gradient else loss)
  return lambda params, batch: run(params, batch, TEXT, HAS_BOXES)


@functools.cache
def detector():
  model = rcnn.build(config())
  return jax.jit(functools.partial(model.apply, method=model.detect))


def detect(canvas=40, text=TEXT):
  return detector()({"params": parameters()}, make_batch(canvas), text)


def flat_gradient(gradient):
  return traverse_util.flatten_dict(gradient, sep="/")


@functools.cache
def box_step():
  (_, losses), gradient = step("box")(parameters(), make_batch())
  return losses, flat_gradient(gradient)


def test_box_step_trains_everything_but_the_frozen_norms():
  losses, gradient = box_step()
  assert all(np.isfinite(x) and x > 0 for x in losses.values()), losses
  for path, g in gradient.items():
    assert np.any(g != 0) != ("norm" in path), path


def test_image_step_leaves_rpn_and_box_predictor_alone():
  (_, losses), gradient = step("image")(parameters(), make_batch())
  assert set(losses) == {"pms", "rkd_l1", "rkd_irm"}
  for path, g in flat_gradient(gradient).items():
    untouched = path.startswith(("rpn/", "box_predictor/")) or "norm" in path
    assert np.all(g == 0) if untouched else np.any(g != 0), path


@functools.cache
def candidates_and_logits():
  """What labels choose from, [b, r, 4] and [b, r]: proposals, regions, the image; and logits."""
  model = rcnn.build(config())

  def look(model, batch, text):
    features = model.features(batch.images, batch.sizes)
    rpn = model.rpn_outputs(features, batch.sizes)
    proposals = model.propose(rpn, features, batch.sizes, train=True)
    image = np.array([[[0, 0, width, height]] for height, width in SIZES], np.float32)
    boxes = jax.numpy.concatenate([proposals.boxes, batch.regions.boxes, image], axis=1)
    return boxes, proposals.valid, model.roi_outputs(features, batch.sizes, boxes, text)[0]

  batch = make_batch()
  look = jax.jit(functools.partial(model.apply, method=look))
  boxes, valid, logits = jax.device_get(look({"params": parameters()}, batch, TEXT))
  valid = np.concatenate([valid, batch.regions.valid, np.ones((2, 1), bool)], axis=1)
  return boxes, valid, logits, valid.shape[1] - 1 - batch.regions.valid.shape[1]


def expected_pms(choice):
  """L_pms by loops over images, labels and candidates."""
  boxes, valid, logits, proposals = candidates_and_logits()
  labels, total = make_batch().pseudo_boxes, 0.0
  places = {"image": slice(-1, None), "largest_region": slice(proposals, -1)}
  for i in range(2):
    rows = np.arange(valid.shape[1])[places.get(choice, slice(proposals))]
    rows = [r for r in rows if valid[i, r]]
    costs = []
    for label in labels.classes[i][labels.valid[i]]:
      sides = boxes[i, :, 2:] - boxes[i, :, :2]
      of = logits[i, :, label] if choice == "best_proposal" else sides.prod(axis=1)
      row = max(rows, key=lambda r: of[r])
      sign = np.where(np.arange(CLASSES + 1) == label, -1, 1)
      costs.append(np.log1p(np.exp(sign * logits[i, row])).sum())
    total += np.mean(costs) / 2
  return 0.1 * total


@pytest.mark.parametrize("choice", ["image", "largest_region", "largest_proposal", "best_proposal"])
def test_labels_may_supervise_another_box(choice):
  (_, losses), gradient = step("image", True, choice)(parameters(), make_batch())
  assert float(losses["pms"]) == pytest.approx(expected_pms(choice), rel=1e-4)
  (_, default), _ = step("image")(parameters(), make_batch())
  assert float(losses["pms"]) != pytest.approx(float(default["pms"]), rel=1e-3)
  for name in ("rkd_l1", "rkd_irm"):
    assert float(losses[name]) == pytest.approx(float(default[name]), rel=1e-5)
  for path, g in flat_gradient(gradient).items():
    untouched = path.startswith(("rpn/", "box_predictor/")) or "norm" in path
    assert np.all(g == 0) if untouched else np.any(g != 0), path


def test_padding_changes_no_loss():
  """A canvas larger than the images, and more padding rows of ground truth and regions.

  The statistics of group normalisation include the padding; this holds for frozen norms.
  """
  expected, _ = box_step()
  _, losses = step("box", gradient=False)(parameters(), make_batch(canvas=64, padding=4))
  for name in expected:
    np.testing.assert_allclose(losses[name], expected[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", ["box", "image"])
def test_without_annotations_loss_and_gradient_are_finite(kind):
  (total, losses), gradient = step(kind)(parameters(), make_batch(annotated=False))
  assert np.isfinite(total)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
  assert losses["rkd_l1"] == losses["rkd_irm"] == 0
  if kind == "box":  # everything is background
    assert losses["rpn_box"] == losses["box"] == 0 and losses["rpn_cls"] > 0 and losses["cls"] > 0
  else:
    assert total == 0


def test_detections():
  found = detect()
  for i, (height, width) in enumerate(SIZES):
    valid = np.asarray(found.valid[i])
    boxes, scores = np.asarray(found.boxes[i])[valid], np.asarray(found.scores[i])
    assert valid.sum() > 3 and np.all(np.diff(valid.astype(int)) <= 0)
    assert np.all(boxes[:, :2] >= 0) and np.all(boxes[:, 2:] <= [width, height])
    assert np.all(scores[valid] > 0.3) and np.all(np.diff(scores) <= 0)
    classes, rois = np.asarray(found.classes[i])[valid], np.asarray(found.rois[i])[valid]
    assert np.all((classes >= 0) & (classes < CLASSES)) and np.all((rois >= 0) & (rois < 10))
    # One RoI may be found as several classes, with one box.
    pairs = set(zip(classes, rois, strict=True))
    assert len(pairs) == valid.sum() > len(set(rois))


def test_canvas_changes_no_detection():
  expected, found = detect(), detect(canvas=64)
  np.testing.assert_array_equal(found.classes, expected.classes)
  np.testing.assert_array_equal(found.valid, expected.valid)
  np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_order_of_the_vocabulary_permutes_classes_only():
  order = np.array([2, 0, 1])
  expected, found = detect(), detect(text=TEXT[order])
  np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
  np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
  valid = np.asarray(expected.valid)
  np.testing.assert_array_equal(order[found.classes][valid], np.asarray(expected.classes)[valid])


def test_weight_transfer_distils_through_the_frozen_projection():
  """RKD's gradient passes through the projection to the features; the projection stays."""
  c, params = config(weight_transfer=True), parameters(weight_transfer=True)
  model, batch = rcnn.build(c), make_batch()
  frozen = frozen_mask(params, ("classifier/projection/.*",))
  optimizer = make_optimizer(common.sgd(), 10, frozen)

  def loss(params, batch):
    embeddings = model.apply(
      {"params": params}, batch.images, batch.sizes, batch.regions.boxes, method=model.embed_regions
    )
    outputs = Outputs(region_embeddings=embeddings)
    return total_lib.total(total_lib.distillation(outputs, batch, c.loss, 2))

  @jax.jit
  def update(params, batch):
    gradient = jax.grad(loss)(params, batch)
    return gradient, optimizer.update(gradient, optimizer.init(params), params)

  gradient, (updates, state) = update(params, batch)
  for path, g in flat_gradient(gradient).items():
    reached = path.startswith(("backbone/", "box_head/", "classifier/projection/"))
    assert np.any(g != 0) == (reached and "norm" not in path), path
  updates = flat_gradient(updates)
  assert np.any(updates["backbone/stem/kernel"] != 0)
  for name in ("kernel", "bias"):
    assert np.all(updates[f"classifier/projection/{name}"] == 0)
  # No slot of the optimiser belongs to the projection.
  slots = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
  assert not any("projection" in slot for slot in slots) and any("fc1" in slot for slot in slots)


def test_bad_box_head_is_named():
  c = common.detector()
  c.model.box_head.kind = "conv"
  with pytest.raises(ValueError, match=r"model\.box_head\.kind is 'conv'"):
    rcnn.abstract_params(c)


def test_published_detector_has_the_original_heads():
  """COCO C4: res4 of 1024 channels, a res5 head of 2048, 15 anchors, one projection to 512."""
  c = common.detector()
  shapes = rcnn.abstract_params(c)
  flat = {path: leaf.shape for path, leaf in flat_gradient(shapes).items()}
  assert flat["rpn/conv/kernel"] == (3, 3, 1024, 1024)
  assert flat["rpn/objectness/kernel"] == (1, 1, 1024, 15)
  assert flat["box_head/stage/block0/conv1/kernel"] == (1, 1, 1024, 512)
  assert flat["box_predictor/fc1/kernel"] == (2048, 2048)
  assert {p: s for p, s in flat.items() if p.startswith("classifier")} == {
    "classifier/projection/kernel": (2048, 512),
    "classifier/projection/bias": (512,),
  }


def test_padding_of_classes_changes_no_detection():
  expected = detect()
  rows = np.concatenate([TEXT, np.zeros((5, TEXT.shape[1]), TEXT.dtype), TEXT])
  valid = np.arange(len(rows)) < len(TEXT)
  padded = detector()({"params": parameters()}, make_batch(), rows, valid)
  assert expected.valid.any()
  for name in ("valid", "boxes", "classes", "scores"):
    np.testing.assert_allclose(getattr(padded, name), getattr(expected, name), rtol=1e-5)
