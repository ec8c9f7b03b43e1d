"""The forms of RoIAlign side by side, and NMS, at the sizes of a config."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.measure import measure
from rkd_jax.benchmark.report import Bench
from rkd_jax.models.detector import rcnn
from rkd_jax.ops.boxes import assign_levels
from rkd_jax.ops.nms import nms
from rkd_jax.ops.roi_align import multilevel_roi_align

ROI_ALIGN_METHODS = ("auto", "gather", "einsum")


def compare(
  config: ml_collections.ConfigDict, bench: Bench, size: int, canvas: tuple[int, int]
) -> None:
  """RoIAlign of `size` images, in training with its gradient, and NMS of one image."""
  m = config.model
  rng = np.random.default_rng(2)
  maps, scales = _maps(config, size, canvas, rng)
  bench.section(f"forms of RoIAlign, {size} x {canvas[0]}x{canvas[1]}")
  cases = [("RoIs", m.rpn.test.post_nms, m.roi.resolution, False)]
  cases += [("RoIs", m.roi.batch_size_per_image, m.roi.resolution, True)]
  if m.mask_head.layers:
    cases += [("masks", m.test.detections, m.mask_head.resolution, False)]
  for name, count, resolution, train in cases:
    boxes = jax.device_put(synthetic.random_boxes(rng, (size, count), canvas))
    for method in ROI_ALIGN_METHODS:
      pool = functools.partial(_pool, scales=scales, resolution=resolution, method=method)
      function = jax.grad(lambda *args, pool=pool: jnp.sum(pool(*args))) if train else pool
      _, figures = measure(function, (maps, boxes), bench.budget, bench.ceilings)
      label = f"{count} {name} {resolution}x{resolution}{', gradient' if train else ''}: {method}"
      bench.row(label, figures | {"method": method})

  bench.section("NMS, one image")
  for name, count, keep, threshold, classes in _nms_cases(config, maps):
    boxes = synthetic.random_boxes(rng, (count,), canvas)
    scores = rng.random(count, np.float32)
    labels = rng.integers(0, max(classes, 1), count).astype(np.int32)

    def suppress(boxes, scores, labels, keep=keep, threshold=threshold, classes=classes):
      valid = jnp.ones(scores.shape, bool)
      return nms(boxes, scores, valid, threshold, keep, labels if classes else None)

    args = jax.device_put((boxes, scores, labels))
    bench.measure(f"{name}: {count:,} to {keep:,}", suppress, *args)


def _maps(config, size, canvas, rng):
  """Random feature maps that RoIs are pooled from, and their scales."""
  model = rcnn.build(config)
  abstract = jax.eval_shape(
    lambda params, images, sizes: model.apply(
      {"params": params}, images, sizes, method=rcnn.RCNN.features
    ),
    rcnn.abstract_params(config),
    jax.ShapeDtypeStruct((size, *canvas, 3), np.uint8),
    jax.ShapeDtypeStruct((size, 2), np.int32),
  )[: len(model.bind({}).backbone.strides)]
  maps = [jnp.asarray(rng.standard_normal(x.shape, np.float32), x.dtype) for x in abstract]
  return maps, [1.0 / stride for stride in model.bind({}).strides[: len(maps)]]


def _pool(maps, boxes, scales, resolution, method):
  def one_image(maps, boxes):
    levels = assign_levels(boxes, 2, 1 + len(maps)) if len(maps) > 1 else None
    return multilevel_roi_align(maps, boxes, levels, resolution, scales, method=method)

  return jax.vmap(one_image)(maps, boxes)


def _nms_cases(config, maps):
  """(name, boxes in, boxes out, threshold, number of classes; 0: all suppress each other)."""
  m = config.model
  # The FPN's last level has a quarter of the cells of the one before.
  cells = [x.shape[1] * x.shape[2] for x in maps]
  cells += [cells[-1] // 4] if m.fpn.channels else []
  anchors = len(m.rpn.anchor_sizes[0]) * len(m.rpn.anchor_ratios)
  for mode in ("train", "test"):
    c = m.rpn[mode]
    count = sum(min(c.pre_nms, n * anchors) for n in cells)
    levels = len(cells) if len(cells) > 1 else 0
    yield f"proposals ({mode})", count, c.post_nms, m.rpn.nms_threshold, levels
  yield "detections", m.test.candidates, m.test.detections, m.test.nms_threshold, 80
