"""The method on one page.

  L = L_rpn + L_reg + L_cls + beta_1 L_1 + beta_2 L_irm        box steps (eq. 3)
  L = alpha L_pms           + beta_1 L_1 + beta_2 L_irm        image steps (eq. 5)

Reductions run per group of images (an authors' GPU held one group) and are averaged over groups, so
the result does not depend on the number of devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Key, Shaped

from rkd_jax.losses import ils, infonce, irm, rkd, roi, rpn
from rkd_jax.losses.federated import federated_classes
from rkd_jax.losses.mask import mask_bce
from rkd_jax.machine.target import over_images
from rkd_jax.ops.masks import rasterize
from rkd_jax.structures import Batch, Outputs, RegionQueue, Vocabulary

Losses = dict[str, Float[Array, ""]]


def over_groups(fn: Callable, images_per_group: int, *args):
  """Mean over groups of `fn` of a group's arrays (leading axes group, image)."""
  batch = jax.tree.leaves(args)[0].shape[0]
  size = min(images_per_group, batch)
  if batch % size:
    raise ValueError(
      f"A batch of {batch} images does not divide into groups of {size}: change the batch size "
      "or loss.images_per_group."
    )
  groups = jax.tree.map(lambda x: x.reshape(batch // size, size, *x.shape[1:]), args)
  return jax.tree.map(jnp.mean, jax.vmap(fn)(*groups))


def flat(x: Shaped[Array, "i n *d"]) -> Shaped[Array, "in *d"]:
  """Joins the image axis of a group with the axis of its boxes."""
  return x.reshape(-1, *x.shape[2:])


def distillation(
  outputs: Outputs,
  batch: Batch,
  config,
  images_per_group: int,
  queue: RegionQueue | None = None,
) -> Losses:
  """beta_1 L_1 and beta_2 L_irm on the teacher's regions, and what is in their place or beside.

  Those are the terms of `config.contrastive` and `config.relations`, where their weights are not 0.
  Regions are contrasted with those of the whole batch and of `queue`, in no groups.
  """
  # Configs of earlier versions have neither.
  none = ml_collections.ConfigDict()
  contrastive, relations = config.get("contrastive", none), config.get("relations", none)

  def group(student, teacher, valid):
    student, teacher, valid = flat(student), flat(teacher), flat(valid)
    divergence = {}
    if relations.get("weight"):
      found = irm.relation_divergence(student, teacher, valid, relations.temperature)
      divergence = {"rkd_relations": found}
    return divergence | {
      "rkd_l1": rkd.point_wise_l1(student, teacher, valid, config.rkd.reduction),
      "rkd_irm": irm.inter_embedding_relationship(
        student, teacher, valid, config.irm.row_norm, config.irm.reduction
      ),
    }

  regions = batch.regions
  losses = over_groups(
    group, images_per_group, outputs.region_embeddings, regions.embeddings, regions.valid
  )
  weighted = {
    "rkd_l1": losses["rkd_l1"] * config.rkd.weight * config.rkd.temperature,
    "rkd_irm": losses["rkd_irm"] * config.irm.weight * config.irm.temperature,
  }
  if relations.get("weight"):
    weighted["rkd_relations"] = losses["rkd_relations"] * relations.weight
  if contrastive.get("weight"):
    own = infonce.region_infonce(
      flat(outputs.region_embeddings),
      flat(regions.embeddings),
      flat(regions.valid),
      contrastive.temperature,
      contrastive.duplicates,
      queue,
    )
    weighted["rkd_contrastive"] = own * contrastive.weight
  return weighted


def box_losses(
  outputs: Outputs,
  batch: Batch,
  vocabulary: Vocabulary,
  keys: Key[Array, "b"] | None,
  config: ml_collections.ConfigDict,
  queue: RegionQueue | None = None,
) -> Losses:
  """L_rpn, L_cls, L_reg, L_mask and, where the batch has regions, the distillation terms.

  `keys` holds one key per image; None samples anchors in index order and draws the most
  frequent classes.  `queue` is that of `distillation`.

  RoIs matched to pseudo labels are foreground for L_cls alone.  The classes that these alone name
  count at foreground: what is background there may well be one of their objects, which few of their
  boxes are of (`config.pseudo_background` lets it count, too).  With `config.pseudo_agreement` they
  are weighed by `roi.agreement_weights`.
  """
  objectness, regression = rpn.rpn_losses(
    outputs.rpn, batch.ground_truth, keys, config.rpn, batch.regions
  )
  has_boxes = jnp.asarray(vocabulary.has_boxes)
  agreement, scores = config.get("pseudo_agreement", ml_collections.ConfigDict()), None
  if agreement.get("on") and batch.ground_truth.scores is not None:
    index = outputs.rois.gt_index
    scores = jnp.take_along_axis(jnp.asarray(batch.ground_truth.scores), index, axis=1)

  def group(logits, deltas, rois, masks, keys, scores):
    rois = jax.tree.map(flat, rois)
    foreground = rois.classes < logits.shape[-1] - 1
    counted = has_boxes if config.ignore_zero_classes else jnp.ones_like(has_boxes)
    if vocabulary.has_pseudo_labels is not None and config.ignore_zero_classes:
      where = True if config.get("pseudo_background", False) else foreground[:, None]
      counted = counted | (jnp.asarray(vocabulary.has_pseudo_labels) & where)
    if config.federated_classes:
      key = None if keys is None else jax.random.fold_in(keys[0], 1)
      weights = jnp.sqrt(vocabulary.image_counts)
      drawn = federated_classes(key, rois.classes, rois.valid, weights, config.federated_classes)
      counted = counted & drawn
    annotated = foreground if rois.pseudo is None else foreground & ~rois.pseudo
    logits, kind, weights = flat(logits), config.classification, None
    if scores is not None:
      weights = roi.agreement_weights(logits, rois.pseudo, flat(scores), agreement.threshold, kind)
    losses = {
      "cls": roi.classification(logits, rois.classes, rois.valid, counted, kind, weights),
      "box": roi.box_regression(flat(deltas), rois.boxes, rois.gt_boxes, annotated, rois.valid),
    }
    if masks is not None:
      losses["mask"] = mask_bce(*map(flat, masks))
    return losses

  losses = {"rpn_cls": objectness, "rpn_box": regression}
  masks = None if outputs.mask_logits is None else _mask_terms(outputs, batch)
  per_roi = (outputs.class_logits, outputs.box_deltas, outputs.rois, masks)
  losses |= over_groups(group, config.images_per_group.box, *per_roi, keys, scores)
  if batch.regions is not None:
    losses |= distillation(outputs, batch, config, config.images_per_group.box, queue)
  return losses


def _mask_terms(outputs: Outputs, batch: Batch):
  """Logits, targets and whether a RoI is foreground, [b, f, ...], of the RoIs that can be."""
  truth = batch.ground_truth
  if truth.vertices is None:
    raise ValueError(
      "The model has a mask head, but the ground truth has no polygons: set data.box.max_vertices "
      "(and use a data set with polygons), or model.mask_head.layers=0."
    )
  count, size = outputs.mask_logits.shape[1:3]
  rois = jax.tree.map(lambda x: x[:, :count], outputs.rois)
  foreground = rois.valid & (rois.classes < outputs.class_logits.shape[-1] - 1)
  if rois.pseudo is not None:
    foreground &= ~rois.pseudo

  def one_image(vertices, owners, index, boxes):
    return jax.vmap(lambda i, box: rasterize(vertices[i], owners[i], box, size))(index, boxes)

  targets = over_images(one_image, truth.vertices, truth.owners, rois.gt_index, rois.boxes)
  return outputs.mask_logits, targets, foreground


def image_losses(
  outputs: Outputs,
  batch: Batch,
  config: ml_collections.ConfigDict,
  queue: RegionQueue | None = None,
) -> Losses:
  """alpha L_pms and, where the batch has regions, the distillation terms (`queue` is theirs)."""
  pseudo = batch.pseudo_boxes
  valid = pseudo.valid if outputs.label_valid is None else outputs.label_valid
  pms = ils.pseudo_max_score(outputs.pseudo_box_logits, pseudo.classes, valid)
  losses = {"pms": config.ils.weight * pms}
  if batch.regions is not None and config.rkd.on_image_batches:
    losses |= distillation(outputs, batch, config, config.images_per_group.image, queue)
  return losses


def total(losses: Losses) -> Float[Array, ""]:
  """The plain sum, as differentiated."""
  return sum(losses.values())  # pyright: ignore[reportReturnType]
