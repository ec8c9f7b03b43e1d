"""The two-stage open-vocabulary detector: batch in, outputs out, no losses.

Backbone -> RPN -> RoIAlign -> box head -> {box predictor, zero-shot classifier}.  Teacher regions
(RKD) and pseudo boxes (ILS) go through the same RoIAlign, box head and projection as proposals do.
The class-embedding matrix is an argument, not a parameter: swapping it changes the vocabulary and
nothing else.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8

from rkd_jax.machine.target import in_parts_on_cpu, on_each_device, over_images
from rkd_jax.models.backbones.fpn import FPN
from rkd_jax.models.backbones.kinds import make_backbone
from rkd_jax.models.detector import fusion, label_boxes
from rkd_jax.models.detector import rois as rois_lib
from rkd_jax.models.detector import rpn as rpn_lib
from rkd_jax.models.detector.heads import BoxPredictor, FcBoxHead, MaskHead, ResBoxHead
from rkd_jax.models.detector.zero_shot_classifier import ZeroShotClassifier
from rkd_jax.ops import boxes as boxes_lib
from rkd_jax.ops.anchors import grid_anchors
from rkd_jax.ops.padding import Extents, extents_of, zero_beyond
from rkd_jax.ops.roi_align.multilevel import multilevel_roi_align
from rkd_jax.structures import Batch, Detections, Outputs, Proposals, RpnOutputs, ScoredRois

Features = Sequence[Float[Array, "b _h _w c"]]
Boxes = Float[Array, "b r 4"]
ClassEmbeddings = Float[Array, "c e"]
# Class logits (background last), box deltas and distilled embeddings of RoIs.
RoiOutputs = tuple[Float[Array, "b r c1"], Boxes, Float[Array, "b r e"]]

# The mask head runs on its RoIs in so many parts, those without any wanted RoI skipped.
_MASK_PARTS = 4
# Of the images that go through the trunk together on a CPU: one of 800 x 1333, many small ones.
_PIXELS = 1 << 20


class RCNN(nn.Module):
  """The detector described by `config.model` (see configs/common.py).

  `ils_boxes` says which box a label supervises in image steps, see `label_boxes`.
  """

  config: ml_collections.FrozenConfigDict
  ils_boxes: str = label_boxes.PSEUDO

  def setup(self):
    c = self.config
    dtype = jnp.dtype(c.dtype)
    self.backbone = make_backbone(c.backbone, dtype, c.get("remat", False))
    if c.fpn.channels:
      self.fpn = FPN(self.backbone.strides, c.fpn.channels, dtype)
    if c.mask_head.layers:
      self.mask_head = MaskHead(c.mask_head.layers, c.mask_head.channels, dtype)
    anchors_per_cell = len(c.rpn.anchor_sizes[0]) * len(c.rpn.anchor_ratios)
    self.rpn = rpn_lib.RpnHead(c.rpn.channels, anchors_per_cell, dtype)
    self.box_head = self._box_head(dtype)
    self.box_predictor = BoxPredictor(dtype)
    self.classifier = ZeroShotClassifier(**c.classifier, dtype=dtype)

  def _box_head(self, dtype) -> nn.Module:
    head = self.config.box_head
    if head.kind == "fc":
      return FcBoxHead(head.layers, head.width, dtype)
    if head.kind == "res5":
      # The stage after the backbone's last: twice as wide, else alike.
      norm, expansion = self.config.backbone.norm, self.config.backbone.expansion
      width = 2 * self.backbone.channels[-1] // expansion
      remat = self.config.get("remat", False)
      return ResBoxHead(head.layers, width, norm, expansion, dtype, remat)
    raise ValueError(f"model.box_head.kind is {head.kind!r}; expected 'fc' or 'res5'.")

  def __call__(
    self, images: UInt8[Array, "b h w 3"], class_embeddings: ClassEmbeddings
  ) -> tuple[Array, ...]:
    """Touches every parameter once, for initialisation."""
    batch, height, width = images.shape[:3]
    size = jnp.array([[height, width]] * batch)
    features = self.features(images, size)
    rpn = self.rpn_outputs(features, size)
    box = jnp.array([[[0.0, 0.0, width, height]]] * batch)
    logits, deltas, _ = self.roi_outputs(features, size, box, class_embeddings)
    outputs = (rpn.logits, rpn.deltas, logits, deltas)
    if self.config.mask_head.layers:
      outputs = (*outputs, self.masks(features, size, box, jnp.ones(box.shape[:2], bool)))
    return outputs

  def extents(self, sizes: Extents) -> Extents:
    """Where the network takes images of these sizes to end."""
    return extents_of(sizes, self.config.padding.to, self.config.padding.multiple)

  def features(self, images: UInt8[Array, "b h w 3"], sizes: Extents) -> Features:
    """The feature maps that RPN and RoIs share, finest first.

    Padding enters as the pixel mean; beyond `extents` maps are zero.
    """
    extents = self.extents(sizes)
    if self.is_initializing():
      return self.image_features(images, sizes, extents)
    model, variables = self.unbind()
    params = {k: v for k, v in variables["params"].items() if k in ("backbone", "fpn")}

    def features(params, *args):
      return model.apply({"params": params}, *args, method=RCNN.image_features)

    together = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
    # One more forward pass in training, for half of what a step holds.
    return in_parts_on_cpu(features, params, (images, sizes, extents), together, recompute=True)

  def image_features(
    self, images: UInt8[Array, "b h w 3"], sizes: Extents, extents: Extents
  ) -> Features:
    """`features` of images that know nothing of each other."""
    c = self.config
    x = (images.astype(jnp.float32) - jnp.array(c.pixel_mean)) / jnp.array(c.pixel_std)
    x = zero_beyond(x, sizes, 1).astype(c.dtype)
    maps = self.backbone(x, extents)
    maps = self.fpn(maps, extents) if c.fpn.channels else maps[-1:]
    return [zero_beyond(x, extents, stride) for x, stride in zip(maps, self.strides, strict=True)]

  @property
  def strides(self) -> tuple[int, ...]:
    """Stride of each feature map."""
    strides = self.backbone.strides
    return (*strides, 2 * strides[-1]) if self.config.fpn.channels else strides[-1:]

  def rpn_outputs(self, features: Features, sizes: Extents) -> RpnOutputs:
    c = self.config.rpn
    logits, deltas = zip(*map(self.rpn, features), strict=True)
    # One after the other as one row of each image (see `boxes.take`).
    deltas = jnp.concatenate([d.reshape(len(d), -1) for d in deltas], axis=1)
    anchors = [
      grid_anchors(level.shape[1], level.shape[2], stride, level_sizes, c.anchor_ratios)
      for level, stride, level_sizes in zip(features, self.strides, c.anchor_sizes, strict=True)
    ]
    return RpnOutputs(
      anchors=jnp.concatenate(anchors),
      logits=jnp.concatenate(logits, axis=1),
      deltas=deltas.reshape(len(deltas), -1, 4),
      valid=rpn_lib.valid_anchors(
        features, self.extents(sizes), self.strides, self.rpn.anchors_per_cell
      ),
    )

  def propose(self, rpn: RpnOutputs, features: Features, sizes: Extents, train: bool) -> Proposals:
    c = self.config.rpn
    mode = c.train if train else c.test
    counts = [level.shape[1] * level.shape[2] * self.rpn.anchors_per_cell for level in features]
    return rpn_lib.propose(rpn, counts, sizes, mode.pre_nms, mode.post_nms, c.nms_threshold)

  def pool(
    self, features: Features, sizes: Extents, boxes: Boxes, resolution: int, bin_step: int = 1
  ) -> Float[Array, "b r o o c"]:
    """RoIAlign of each box from the level that fits its size; an FPN's last is the RPN's alone.

    Boxes are cut into `resolution` bins per axis, of which every `bin_step`-th is computed.
    """
    strides = self.strides[: len(self.backbone.strides)]
    features = features[: len(strides)]
    cells = -(-self.extents(sizes)[:, None] // jnp.array(strides)[:, None])
    scales = [1.0 / stride for stride in strides]
    finest = strides[0].bit_length() - 1

    def one_image(maps, boxes, cells):
      levels = None
      if len(maps) > 1:
        levels = boxes_lib.assign_levels(boxes, finest, finest + len(maps) - 1)
      return multilevel_roi_align(
        maps,
        boxes,
        levels,
        resolution,
        scales,
        cells=cells,
        bin_step=bin_step,
        batch_axis="images",
      )

    return over_images(one_image, list(features), boxes, cells)

  def box_pool(self, features: Features, sizes: Extents, boxes: Boxes) -> Float[Array, "b r o o c"]:
    """What the box head is given."""
    return self.pool(features, sizes, boxes, self.config.roi.resolution, self.box_head.bin_step)

  def roi_features(self, features: Features, sizes: Extents, boxes: Boxes) -> Float[Array, "b r d"]:
    """RoIAlign and box head."""
    pooled = self.box_pool(features, sizes, boxes)
    batch, rois = boxes.shape[:2]
    return self.box_head(pooled.reshape(batch * rois, *pooled.shape[2:])).reshape(batch, rois, -1)

  def roi_outputs(
    self, features: Features, sizes: Extents, boxes: Boxes, class_embeddings: ClassEmbeddings
  ) -> RoiOutputs:
    return self.classify(self.roi_features(features, sizes, boxes), class_embeddings)

  def classify(
    self, roi_features: Float[Array, "b r d"], class_embeddings: ClassEmbeddings
  ) -> RoiOutputs:
    """`roi_outputs` of RoIs with these features."""
    batch, rois, width = roi_features.shape
    x = roi_features.reshape(batch * rois, width)
    logits, distilled = self.classifier(x, class_embeddings)
    outputs = (logits, self.box_predictor(x), distilled)
    logits, deltas, distilled = (y.reshape(batch, rois, -1) for y in outputs)
    return logits, deltas, distilled

  def masks(
    self, features: Features, sizes: Extents, boxes: Boxes, wanted: Bool[Array, "b r"]
  ) -> Float[Array, "b r m m"]:
    """Mask logits of RoIs, in the frame of each box; those not wanted may be zero.

    Where the wanted ones come first, as foreground RoIs and detections do, whole parts of the rest
    are skipped: there is a place for as many as an image can have, and few have as many.
    """
    pooled = self.pool(features, sizes, boxes, self.config.mask_head.resolution)
    if self.is_initializing():
      return self.mask_head(pooled[0])[None]
    head, variables = self.mask_head.clone(parent=None), self.mask_head.variables
    ends = [boxes.shape[1] * i // _MASK_PARTS for i in range(_MASK_PARTS + 1)]

    def predict(variables, x):
      logits = jnp.asarray(head.apply(variables, x.reshape(-1, *x.shape[2:])))
      return logits.reshape(*x.shape[:2], *logits.shape[1:])

    def skip(_, x):
      return jnp.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))

    def in_parts(variables, pooled, wanted):
      # Not slices, whose gradients are as large as all RoIs together.
      parts = (jnp.split(x, ends[1:-1], axis=1) for x in (wanted, pooled))
      parts = [
        jax.lax.cond(jnp.any(w), predict, skip, variables, x)
        for w, x in zip(*parts, strict=True)
        if x.size
      ]
      return jnp.concatenate(parts, axis=1)

    return on_each_device(in_parts, variables, pooled, wanted)

  def box_step(
    self, batch: Batch, class_embeddings: ClassEmbeddings, keys: Key[Array, "b"] | None
  ) -> Outputs:
    """Training outputs for images with boxes.  `keys` holds one key per image."""
    c, num_classes = self.config.roi, class_embeddings.shape[0]
    features, rpn, proposals = self._proposed(batch, train=True)
    rois = rois_lib.sample(proposals, batch.ground_truth, keys, num_classes, c)
    logits, deltas, embeddings = self._with_regions(features, rois.boxes, batch, class_embeddings)
    mask_logits = None
    if self.config.mask_head.layers:
      most = int(c.batch_size_per_image * c.positive_fraction)
      foreground = (rois.classes < num_classes) & rois.valid
      mask_logits = self.masks(features, batch.sizes, rois.boxes[:, :most], foreground[:, :most])
    return Outputs(
      rpn=rpn,
      rois=rois,
      class_logits=logits,
      box_deltas=deltas,
      region_embeddings=embeddings,
      mask_logits=mask_logits,
    )

  def image_step(self, batch: Batch, class_embeddings: ClassEmbeddings) -> Outputs:
    """Training outputs for images with labels only: each has a box, rather than RoIs.

    Neither proposals, if any are needed, nor box deltas are differentiated: the gradient of the RPN
    and of the box predictor is exactly zero.
    """
    if self.ils_boxes in label_boxes.OF_PROPOSALS:
      features, _, proposals = self._proposed(batch, train=True)
    else:
      features, proposals = self.features(batch.images, batch.sizes), None
    boxes, valid = label_boxes.candidates(self.ils_boxes, batch, proposals)
    logits, _, embeddings = self._with_regions(features, boxes, batch, class_embeddings)
    logits, valid = label_boxes.of_labels(self.ils_boxes, logits, logits, valid, batch.pseudo_boxes)
    return Outputs(pseudo_box_logits=logits, region_embeddings=embeddings, label_valid=valid)

  def _with_regions(self, features, boxes, batch: Batch, class_embeddings):
    """One pass of the RoI head over `boxes` and the teacher's regions together."""
    rois = boxes.shape[1]
    if batch.regions is not None:
      boxes = jnp.concatenate([boxes, batch.regions.boxes], axis=1)
    logits, deltas, distilled = self.roi_outputs(features, batch.sizes, boxes, class_embeddings)
    embeddings = None if batch.regions is None else distilled[:, rois:]
    return logits[:, :rois], deltas[:, :rois], embeddings

  def embed_regions(
    self, images: UInt8[Array, "b h w 3"], sizes: Extents, boxes: Boxes
  ) -> Float[Array, "b r e"]:
    """Distilled region embeddings f(x) of given boxes, not normalised."""
    features = self.features(images, sizes)
    # The distilled projection does not depend on the vocabulary: any row does.
    vocabulary = jnp.zeros((1, self.config.classifier.embedding_dim))
    return self.roi_outputs(features, sizes, boxes, vocabulary)[2]

  def propose_boxes(self, batch: Batch) -> Proposals:
    """The RPN's proposals in network-input pixels, best first, as at test time."""
    return self._proposed(batch)[2]

  def detect(
    self,
    batch: Batch,
    class_embeddings: ClassEmbeddings,
    class_valid: Bool[Array, "c"] | None = None,
  ) -> Detections:
    """Final detections in network-input pixels, best first, as `rois.detections` chooses them.

    Rows of `class_embeddings` that are not `class_valid` are padding.
    """
    features, _, proposals = self._proposed(batch)
    logits, deltas, _ = self.roi_outputs(features, batch.sizes, proposals.boxes, class_embeddings)
    found = rois_lib.detections(
      proposals, logits, deltas, batch.sizes, self.config.test, class_valid
    )
    return self._with_masks(found, features, batch.sizes)

  def detect_with_projection(
    self,
    batch: Batch,
    class_embeddings: ClassEmbeddings,
    class_valid: Bool[Array, "c"] | None,
    exponents: Float[Array, "c"],
  ) -> Detections:
    """`detect` with scores fused with those of the distilled projection, as `fusion` says."""
    features, _, proposals = self._proposed(batch)
    boxes, scores, distilled = self._scores(batch, features, proposals, class_embeddings)
    bias = self.classifier.variables["params"].get("bias", 0.0)
    logits = self.classifier.temperature * fusion.cosines(distilled, class_embeddings) + bias
    fused = fusion.geometric_mean(scores, jax.nn.sigmoid(logits), exponents)
    fused = fused if class_valid is None else jnp.where(class_valid, fused, 0.0)
    found = rois_lib.best(boxes, fused, proposals.valid, self.config.test)
    return self._with_masks(found, features, batch.sizes)

  def score(
    self,
    batch: Batch,
    class_embeddings: ClassEmbeddings,
    class_valid: Bool[Array, "c"] | None = None,
  ) -> ScoredRois:
    """The first half of detection with CLIP's help: `choose` is the second."""
    features, _, proposals = self._proposed(batch)
    boxes, scores, _ = self._scores(batch, features, proposals, class_embeddings)
    scores = scores if class_valid is None else jnp.where(class_valid, scores, 0.0)
    count = self.config.test.fusion.crops
    index, crop_valid, crop_of = fusion.choose_crops(boxes, scores, proposals.valid, count)
    return ScoredRois(
      boxes=boxes,
      scores=scores,
      valid=proposals.valid,
      crops=jnp.take_along_axis(boxes, index[..., None], axis=1),
      crop_valid=crop_valid,
      crop_of=crop_of,
      features=tuple(features) if self.config.mask_head.layers else None,
    )

  def choose(
    self,
    scored: ScoredRois,
    sizes: Extents,
    crop_scores: Float[Array, "b k c"],
    exponents: Float[Array, "c"],
  ) -> Detections:
    """Final detections of RoIs whose crops CLIP gave these scores."""
    fused = fusion.fuse_crops(scored.scores, crop_scores, scored.crop_of, exponents)
    found = rois_lib.best(scored.boxes, fused, scored.valid, self.config.test)
    return self._with_masks(found, scored.features, sizes)

  def _proposed(self, batch: Batch, train=False) -> tuple[Features, RpnOutputs, Proposals]:
    """The feature maps, what the RPN makes of them, and the proposals of training or test time."""
    features = self.features(batch.images, batch.sizes)
    rpn = self.rpn_outputs(features, batch.sizes)
    return features, rpn, self.propose(rpn, features, batch.sizes, train)

  def _scores(self, batch, features, proposals: Proposals, class_embeddings):
    """Final boxes of the RoIs, their scores [b, r, c], and their distilled embeddings."""
    logits, deltas, distilled = self.roi_outputs(
      features, batch.sizes, proposals.boxes, class_embeddings
    )
    boxes = rois_lib.decoded(proposals, deltas, batch.sizes)
    return boxes, jax.nn.sigmoid(logits[..., :-1]), distilled

  def _with_masks(self, found: Detections, features, sizes: Extents) -> Detections:
    if not self.config.mask_head.layers:
      return found
    masks = self.masks(features, sizes, found.boxes, found.valid)
    return dataclasses.replace(found, masks=jax.nn.sigmoid(masks))


def build(config: ml_collections.ConfigDict) -> RCNN:
  """The detector of a config; its model block is frozen so that it can be hashed."""
  ils_boxes = config.loss.ils.get("boxes", label_boxes.PSEUDO)
  return RCNN(ml_collections.FrozenConfigDict(config.model), ils_boxes)


def dummy_inputs(config: ml_collections.ConfigDict) -> tuple[np.ndarray, np.ndarray]:
  """Arguments for `RCNN.__call__` that are large enough for every stage."""
  image = np.zeros((1, 64, 64, 3), np.uint8)
  return image, np.zeros((1, config.model.classifier.embedding_dim), np.float32)


def abstract_params(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Shapes and types of the parameters of a config's network; nothing is computed.

  Raises:
    ValueError: the config is not of a detector.
  """
  if config.task != "detector":
    raise ValueError(f"task is {config.task!r}; expected the config of a detector.")
  init = build(config).init
  return jax.eval_shape(lambda key: init(key, *dummy_inputs(config))["params"], jax.random.key(0))
