import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.configs import common
from rkd_jax.losses import infonce, irm, rkd, roi
from rkd_jax.losses import total as total_lib
from rkd_jax.structures import (
  Batch,
  GroundTruth,
  Outputs,
  PseudoBoxes,
  RegionQueue,
  Regions,
  RoiSamples,
  RpnOutputs,
  Vocabulary,
)

IMAGES, ROIS, CLASSES, REGIONS, DIM = 4, 3, 2, 2, 3
RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def box_like(*shape):
  corner = RNG.uniform(0, 20, (*shape, 2))
  return np.concatenate([corner, corner + RNG.uniform(4, 20, (*shape, 2))], -1, dtype="f")


OUTPUTS = Outputs(
  rpn=RpnOutputs(
    anchors=box_like(5),
    logits=normal(IMAGES, 5),
    deltas=normal(IMAGES, 5, 4),
    valid=np.ones((IMAGES, 5), bool),
  ),
  rois=RoiSamples(
    boxes=box_like(IMAGES, ROIS),
    classes=np.array([[0, 2, 2], [1, 0, 2], [2, 2, 2], [1, 1, 0]]),
    gt_boxes=box_like(IMAGES, ROIS),
    gt_index=np.zeros((IMAGES, ROIS), np.int32),
    valid=np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]], bool),
  ),
  class_logits=normal(IMAGES, ROIS, CLASSES + 1),
  box_deltas=normal(IMAGES, ROIS, 4),
  region_embeddings=normal(IMAGES, REGIONS, DIM),
  pseudo_box_logits=normal(IMAGES, 2, CLASSES + 1),
)
BATCH = Batch(
  images=np.zeros((IMAGES, 8, 8, 3), np.uint8),
  sizes=np.full((IMAGES, 2), 40),
  original_sizes=np.full((IMAGES, 2), 40),
  image_ids=np.arange(IMAGES),
  valid=np.ones(IMAGES, bool),
  ground_truth=GroundTruth(
    boxes=box_like(IMAGES, 2),
    classes=np.zeros((IMAGES, 2), np.int32),
    valid=np.ones((IMAGES, 2), bool),
  ),
  regions=Regions(
    boxes=box_like(IMAGES, REGIONS),
    embeddings=normal(IMAGES, REGIONS, DIM),
    valid=np.array([[1, 1], [1, 0], [1, 1], [0, 0]], bool),
  ),
  pseudo_boxes=PseudoBoxes(
    boxes=box_like(IMAGES, 2),
    classes=np.array([[0, 1], [1, 0], [0, 0], [0, 0]]),
    valid=np.array([[1, 1], [1, 0], [0, 0], [1, 0]], bool),
  ),
)
VOCABULARY = Vocabulary(embeddings=normal(CLASSES, DIM), has_boxes=np.array([True, False]))


def loss_config(box=2, image=4, **changes):
  c = common.loss()
  c.images_per_group = {"box": box, "image": image}
  c.update_from_flattened_dict(changes)
  return c


@functools.cache
def compiled_box_losses(changes):
  config = loss_config(**dict(changes))
  return jax.jit(lambda o, b, v: total_lib.box_losses(o, b, v, None, config))


def box_losses(outputs=OUTPUTS, batch=BATCH, **changes):
  return compiled_box_losses(tuple(changes.items()))(outputs, batch, VOCABULARY)


def image_losses(**changes):
  config = loss_config(**changes)
  return jax.jit(lambda o, b: total_lib.image_losses(o, b, config))(OUTPUTS, BATCH)


def take(tree, index):
  """Images `index` of everything with an image axis."""
  return jax.tree.map(lambda x: x if x is OUTPUTS.rpn.anchors else x[index], tree)


def test_over_groups_is_a_loop_over_groups():
  flat = total_lib.flat

  @jax.jit
  def of_group(o, r):
    student, teacher, regions = flat(o.region_embeddings), flat(r.embeddings), flat(r.valid)
    classes, rois = flat(o.rois.classes), flat(o.rois.valid)
    boxes, gt_boxes = flat(o.rois.boxes), flat(o.rois.gt_boxes)
    return {
      "rkd_l1": 15 * rkd.point_wise_l1(student, teacher, regions),
      "rkd_irm": 15 * irm.inter_embedding_relationship(student, teacher, regions),
      "cls": roi.classification(
        flat(o.class_logits), classes, rois, jnp.asarray(VOCABULARY.has_boxes)
      ),
      "box": roi.box_regression(flat(o.box_deltas), boxes, gt_boxes, classes < CLASSES, rois),
    }

  first, second = (
    of_group(take(OUTPUTS, group), take(BATCH.regions, group)) for group in ([0, 1], [2, 3])
  )
  losses = box_losses()
  for name in first:
    expected = (first[name] + second[name]) / 2
    np.testing.assert_allclose(losses[name], expected, rtol=1e-5, err_msg=name)


def test_order_within_and_of_groups_does_not_matter():
  expected = box_losses()
  order = np.array([3, 2, 0, 1])  # groups swapped, and one of them turned round
  shuffled = box_losses(take(OUTPUTS, order), take(BATCH, order))
  assert expected.keys() == shuffled.keys()
  for name in expected:
    np.testing.assert_allclose(shuffled[name], expected[name], rtol=1e-5, err_msg=name)
  # Images that change groups do matter: the grouping is part of the definition.
  regrouped = box_losses(take(OUTPUTS, [0, 2, 1, 3]), take(BATCH, [0, 2, 1, 3]))
  assert abs(regrouped["rkd_irm"] - expected["rkd_irm"]) > 1e-3


def test_group_larger_than_the_batch_is_one_group():
  whole, larger = box_losses(box=IMAGES), box_losses(box=100)
  np.testing.assert_array_equal(jax.tree.leaves(larger), jax.tree.leaves(whole))


def test_batch_that_does_not_divide_into_groups():
  with pytest.raises(ValueError, match="4 images does not divide into groups of 3"):
    box_losses(box=3)


def test_terms_of_each_step():
  """Equations (3) and (5)."""
  assert set(box_losses()) == {"rpn_cls", "rpn_box", "cls", "box", "rkd_l1", "rkd_irm"}
  assert set(box_losses(batch=BATCH.replace(regions=None))) == {"rpn_cls", "rpn_box", "cls", "box"}
  image = image_losses()
  assert set(image) == {"pms", "rkd_l1", "rkd_irm"}
  assert set(image_losses(**{"rkd.on_image_batches": False})) == {"pms"}
  assert float(total_lib.total(image)) == pytest.approx(sum(float(x) for x in image.values()))


def test_weights_scale_their_own_term_only():
  base = box_losses()
  scaled = box_losses(**{"rkd.weight": 0.3, "irm.temperature": 50.0})
  for name, factor in {"rkd_l1": 2, "rkd_irm": 0.5, "cls": 1, "box": 1, "rpn_cls": 1}.items():
    np.testing.assert_allclose(scaled[name], factor * base[name], rtol=1e-6)
  pms = [image_losses(**{"ils.weight": weight})["pms"] for weight in (0.1, 0.4)]
  np.testing.assert_allclose(pms[1], 4 * pms[0], rtol=1e-6)


def test_paper_switches_reach_the_losses():
  base = box_losses()
  paper = box_losses(
    ignore_zero_classes=False,
    classification="softmax",
    **{"rkd.reduction": "sum", "irm.row_norm": "l2", "irm.reduction": "mean"},
  )
  np.testing.assert_allclose(paper["rkd_l1"], DIM * base["rkd_l1"], rtol=1e-5)
  assert paper["rkd_irm"] < base["rkd_irm"]
  assert abs(paper["cls"] - base["cls"]) > 0.1


def _with_pseudo_labels(pseudo, named=(False, True), **changes):
  """Losses where some foreground RoIs are matched to pseudo labels of the second class."""
  outputs = OUTPUTS.replace(rois=OUTPUTS.rois.replace(pseudo=np.array(pseudo, bool)))
  vocabulary = VOCABULARY.replace(has_pseudo_labels=np.array(named))
  config = loss_config(box=IMAGES, **changes)
  return jax.jit(lambda o, v: total_lib.box_losses(o, BATCH, v, None, config))(outputs, vocabulary)


def _cross_entropy(counted):
  """Over all valid RoIs, in plain NumPy; `counted` is of each RoI and class."""
  logits = OUTPUTS.class_logits[..., :CLASSES].reshape(-1, CLASSES).astype(np.float64)
  target = np.eye(CLASSES + 1)[OUTPUTS.rois.classes.reshape(-1)][:, :CLASSES]
  valid = OUTPUTS.rois.valid.reshape(-1)
  per_column = np.log1p(np.exp(logits)) - target * logits
  return (per_column * counted)[valid].sum() / valid.sum()


# RoIs of class 1 are those of pseudo labels: its boxes have no annotations.
PSEUDO = OUTPUTS.rois.classes == 1


def test_classes_of_pseudo_labels_count_where_it_is_known_what_is_there():
  foreground = OUTPUTS.rois.classes.reshape(-1) < CLASSES
  counted = np.stack([np.ones_like(foreground), foreground], axis=1)
  losses = _with_pseudo_labels(PSEUDO)
  np.testing.assert_allclose(losses["cls"], _cross_entropy(counted), rtol=1e-5)
  everywhere = _with_pseudo_labels(PSEUDO, pseudo_background=True)
  np.testing.assert_allclose(everywhere["cls"], _cross_entropy(np.ones((12, 2))), rtol=1e-5)
  # Without the mask all columns count anyway; without pseudo labels the second counts nowhere.
  unmasked = _with_pseudo_labels(PSEUDO, ignore_zero_classes=False)
  np.testing.assert_allclose(unmasked["cls"], everywhere["cls"], rtol=1e-6)
  none = _with_pseudo_labels(PSEUDO, named=(False, False))
  np.testing.assert_allclose(none["cls"], box_losses(box=IMAGES)["cls"], rtol=1e-6)


def test_boxes_are_not_learned_from_pseudo_labels():
  losses, plain = _with_pseudo_labels(PSEUDO), box_losses(box=IMAGES)
  classes = np.where(PSEUDO, CLASSES, OUTPUTS.rois.classes)
  without = OUTPUTS.replace(rois=OUTPUTS.rois.replace(classes=classes))
  expected = box_losses(without, box=IMAGES)["box"]
  np.testing.assert_allclose(losses["box"], expected, rtol=1e-6)
  assert abs(float(plain["box"]) - float(expected)) > 0.1
  nothing = _with_pseudo_labels(np.zeros_like(PSEUDO), named=(False, False))
  for name, value in plain.items():
    np.testing.assert_allclose(nothing[name], value, rtol=1e-6, err_msg=name)


def test_pseudo_labels_are_weighed_by_agreement():
  """Each RoI by the score of the row that it is matched to, and by what the detector sees."""
  index = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
  scores = np.array([[1, 1], [1, 0.3], [1, 1], [0.9, 0.6]], np.float32)
  outputs = OUTPUTS.replace(rois=OUTPUTS.rois.replace(pseudo=PSEUDO, gt_index=index))
  batch = BATCH.replace(ground_truth=BATCH.ground_truth.replace(scores=scores))
  on = {"pseudo_agreement.on": True, "pseudo_agreement.threshold": 0.5}
  config = loss_config(box=IMAGES, ignore_zero_classes=False, **on)
  loss = jax.jit(lambda o, b: total_lib.box_losses(o, b, VOCABULARY, None, config))(outputs, batch)
  weights = np.ones((IMAGES, ROIS))
  for image, roi_ in zip(*np.nonzero(PSEUDO)):
    seen = (1 / (1 + np.exp(-OUTPUTS.class_logits[image, roi_, :CLASSES].astype(float)))).max()
    mean = (scores[image, index[image, roi_]] + seen) / 2
    weights[image, roi_] = 2 * mean if mean >= 0.5 else 0
  assert 0 in weights and len(np.unique(weights)) > 3
  expected = _cross_entropy(weights.reshape(-1, 1))
  np.testing.assert_allclose(loss["cls"], expected, rtol=1e-5)


def test_pseudo_labels_and_the_federated_loss_go_together():
  vocabulary = VOCABULARY.replace(
    has_pseudo_labels=np.array([False, True]), image_counts=np.array([5.0, 5.0], np.float32)
  )
  outputs = OUTPUTS.replace(rois=OUTPUTS.rois.replace(pseudo=PSEUDO))
  found = {}
  for classes in (0, CLASSES):
    config = loss_config(box=IMAGES, federated_classes=classes)
    loss = jax.jit(lambda o, v, c=config: total_lib.box_losses(o, BATCH, v, None, c))
    found[classes] = loss(outputs, vocabulary)["cls"]
  # All classes are drawn.
  np.testing.assert_allclose(found[CLASSES], found[0], rtol=1e-6)


def test_padding_content_has_no_influence():
  """Whatever the rows of padding hold: values are equal and their gradient is zero."""

  def scrambled(x, valid):
    return np.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, x + np.float32(7))

  rois, regions, pseudo = OUTPUTS.rois, BATCH.regions, BATCH.pseudo_boxes
  outputs = OUTPUTS.replace(
    class_logits=scrambled(OUTPUTS.class_logits, rois.valid),
    box_deltas=scrambled(OUTPUTS.box_deltas, rois.valid),
    region_embeddings=scrambled(OUTPUTS.region_embeddings, regions.valid),
    pseudo_box_logits=scrambled(OUTPUTS.pseudo_box_logits, pseudo.valid),
  )

  fields = ("class_logits", "box_deltas", "region_embeddings", "pseudo_box_logits")

  @jax.jit
  @jax.value_and_grad
  def total(changed, batch):
    outputs = OUTPUTS.replace(**changed)
    image_losses = total_lib.image_losses(outputs, batch, loss_config())
    losses = total_lib.box_losses(outputs, batch, VOCABULARY, None, loss_config())
    return total_lib.total(losses) + total_lib.total(image_losses)

  value, gradient = total({name: getattr(OUTPUTS, name) for name in fields}, BATCH)
  same_value, _ = total({name: getattr(outputs, name) for name in fields}, BATCH)
  np.testing.assert_allclose(same_value, value, rtol=1e-5)
  masks = dict(zip(fields, (rois.valid, rois.valid, regions.valid, pseudo.valid), strict=True))
  for name, valid in masks.items():
    np.testing.assert_array_equal(gradient[name][~np.asarray(valid)], 0, err_msg=name)
    assert np.abs(gradient[name]).max() > 0


CONTRAST = {"contrastive.weight": 0.5, "relations.weight": 2.0}


def test_contrast_and_relations_are_there_if_they_have_a_weight():
  base, all_four = box_losses(), box_losses(**CONTRAST)
  assert all_four.keys() - base.keys() == {"rkd_contrastive", "rkd_relations"}
  for name, value in base.items():
    np.testing.assert_array_equal(all_four[name], value)
  assert image_losses(**CONTRAST).keys() - image_losses().keys() == all_four.keys() - base.keys()
  one = box_losses(**{"contrastive.weight": 1.0})
  np.testing.assert_allclose(2 * all_four["rkd_contrastive"], one["rkd_contrastive"], rtol=1e-6)
  assert "rkd_contrastive" not in image_losses(**CONTRAST, **{"rkd.on_image_batches": False})


def test_regions_are_contrasted_with_the_batch_and_related_within_groups():
  student, regions, flat = OUTPUTS.region_embeddings, BATCH.regions, total_lib.flat
  rows = [flat(jnp.asarray(x)) for x in (student, regions.embeddings, regions.valid)]
  found = box_losses(**CONTRAST)
  whole = 0.5 * infonce.region_infonce(*rows, 20.0, 0.999)
  np.testing.assert_allclose(found["rkd_contrastive"], whole, rtol=1e-5)
  groups = [irm.relation_divergence(*(x[4 * i : 4 * i + 4] for x in rows), 5.0) for i in (0, 1)]
  np.testing.assert_allclose(found["rkd_relations"], sum(groups), rtol=1e-5)
  # In other groups the contrast is the same, and the relations are not.
  order = np.array([0, 2, 1, 3])
  other = box_losses(take(OUTPUTS, order), take(BATCH, order), **CONTRAST)
  np.testing.assert_allclose(other["rkd_contrastive"], whole, rtol=1e-5)
  assert abs(other["rkd_relations"] - found["rkd_relations"]) > 1e-3


def test_the_queue_joins_the_negatives():
  queue = RegionQueue(jnp.asarray(normal(3, DIM)), jnp.array([True, True, False]))
  config = loss_config(**CONTRAST)
  of_queue = jax.jit(lambda o, b, q: total_lib.image_losses(o, b, config, q))
  rows = [
    total_lib.flat(jnp.asarray(x))
    for x in (OUTPUTS.region_embeddings, BATCH.regions.embeddings, BATCH.regions.valid)
  ]
  found = of_queue(OUTPUTS, BATCH, queue)["rkd_contrastive"]
  expected = 0.5 * infonce.region_infonce(*rows, 20.0, 0.999, queue)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert found > of_queue(OUTPUTS, BATCH, None)["rkd_contrastive"] + 1e-3


def test_configs_of_before_have_neither():
  config = loss_config()
  del config["contrastive"], config["relations"]
  found = jax.jit(lambda o, b: total_lib.image_losses(o, b, config))(OUTPUTS, BATCH)
  assert found.keys() == image_losses().keys()
