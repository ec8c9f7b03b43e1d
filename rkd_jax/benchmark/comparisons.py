"""The same work in several ways: forms of RoIAlign and NMS, and PyTorch beside ours.

PyTorch's trunk is torchvision's ResNet-50 with its strides where ours are, its detectors are those
with an FPN, CLIP's tower is the same with torch's fused attention.  Both sides get the same sizes,
batch and dtype (bfloat16: autocast) on the same kind of device; torch its channels-last layout.
What is frozen is frozen on both sides: batch statistics, in the detectors stem and res2 too.  The
ratio of their rows is what counts, since both ran on the same machine just then.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.report import Bench, Options
from rkd_jax.machine.compilation import matmul_options
from rkd_jax.models.backbones.resnet import ResNet
from rkd_jax.models.clip.model import PRESETS, Clip
from rkd_jax.models.clip.preprocess import normalize
from rkd_jax.models.detector import rcnn
from rkd_jax.ops.boxes import assign_levels
from rkd_jax.ops.nms import nms
from rkd_jax.ops.roi_align.multilevel import multilevel_roi_align

_STAGE_BLOCKS = (3, 4, 6, 3)


def forms(config: ml_collections.ConfigDict, bench: Bench) -> None:
  """RoIAlign at the sizes of a config, in training with its gradient, and NMS of one image."""
  m, canvas, size = config.model, bench.options.canvas, bench.options.inference_batches[0]
  rng = np.random.default_rng(2)
  maps, scales = _maps(config, size, canvas, rng)
  bench.section(f"forms of RoIAlign, {size} x {canvas[0]}x{canvas[1]}")
  cases = [("RoIs", m.rpn.test.post_nms, m.roi.resolution, False)]
  cases += [("RoIs", m.roi.batch_size_per_image, m.roi.resolution, True)]
  if m.mask_head.layers:
    cases += [("masks", m.test.detections, m.mask_head.resolution, False)]
  methods = ("auto", "gather", "einsum")
  if jax.default_backend() != "cpu":
    methods += ("tiles",)
  for name, count, resolution, train in cases:
    boxes = jax.device_put(synthetic.random_boxes(rng, (size, count), canvas))
    for method in methods:
      pool = functools.partial(_pool, scales=scales, resolution=resolution, method=method)
      function = jax.grad(lambda *args, pool=pool: jnp.sum(pool(*args))) if train else pool
      label = f"{count} {name} {resolution}x{resolution}{', gradient' if train else ''}: {method}"
      bench.measure(label, function, maps, boxes)

  bench.section("NMS, one image")
  # The FPN's last level has a quarter of the cells of the one before.
  cells = [x.shape[1] * x.shape[2] for x in maps]
  cells += [cells[-1] // 4] if m.fpn.channels else []
  anchors = len(m.rpn.anchor_sizes[0]) * len(m.rpn.anchor_ratios)
  # Boxes in and out, threshold, number of classes (1: all suppress each other).
  sizes = {}
  for mode in ("train", "test"):
    c = m.rpn[mode]
    count = sum(min(c.pre_nms, n * anchors) for n in cells)
    sizes[f"proposals ({mode})"] = count, c.post_nms, m.rpn.nms_threshold, len(cells)
  sizes["detections"] = m.test.candidates, m.test.detections, m.test.nms_threshold, 80
  for name, (count, keep, threshold, classes) in sizes.items():
    boxes = synthetic.random_boxes(rng, (count,), canvas)
    scores = rng.random(count, np.float32)
    labels = rng.integers(0, classes, count).astype(np.int32) if classes > 1 else None

    def suppress(boxes, scores, labels, keep=keep, threshold=threshold):
      return nms(boxes, scores, jnp.ones(scores.shape, bool), threshold, keep, labels)

    args = jax.device_put((boxes, scores, labels))
    bench.measure(f"{name}: {count:,} to {keep:,}", suppress, *args)


def _maps(config, size, canvas, rng):
  """Random feature maps that RoIs are pooled from, and their scales."""
  model = rcnn.build(config)
  abstract = jax.eval_shape(
    functools.partial(model.apply, method=rcnn.RCNN.features),
    {"params": rcnn.abstract_params(config)},
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


def open_torch(bench: Bench, dtype: str) -> Any:
  """A `TorchBenchmark`; None, and a line that says why, where torch cannot be used."""

  def load():
    # Optional, and heavy: imported only where it is asked for.
    from rkd_jax.benchmark.torch_models import TorchBenchmark

    return TorchBenchmark(jax.default_backend(), dtype, bench.options)

  return bench.attempt("torch", load)


def against_torch(config: ml_collections.ConfigDict, bench: Bench, box_batch: int) -> None:
  """The trunk with every convolution trained, and the detector, or why torch's are missing."""
  dtype, canvas = config.model.dtype, bench.options.canvas
  size = "x".join(map(str, canvas))
  bench.section(f"against torch: ResNet-50 trunk, {box_batch} x {size}")
  rng = np.random.default_rng(3)
  images = rng.standard_normal((box_batch, *canvas, 3), np.float32)
  model = ResNet(_STAGE_BLOCKS, dtype=jnp.dtype(dtype))
  abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
  args = jax.device_put((synthetic.fill(abstract, np.random.default_rng(0)), images))

  def last_map(params, images):
    return model.apply({"params": params}, images.astype(dtype))[-1]

  def mean(params, images):
    return jnp.mean(last_map(params, images), dtype=jnp.float32)

  bench.measure("ours, forward", last_map, *args, images=box_batch)
  bench.measure("ours, forward and backward", jax.value_and_grad(mean), *args, images=box_batch)
  torch = open_torch(bench, dtype)
  measured = torch and bench.attempt("torchvision", torch.trunk, images)
  if not measured:
    return
  for name, figures in measured.items():
    bench.row(f"torch, {name}", figures, box_batch)

  bench.section(f"against torchvision's detector, {size}")
  if not config.model.fpn.channels:
    bench.note("torchvision has no detector of this kind (C4): only those with an FPN compare.")
    return
  for name in ("inference", "box step"):
    ours = next((row for row in bench.rows if row.get("name") == name), None)
    if ours is not None:
      figures = {key: value for key, value in ours.items() if key not in ("section", "name")}
      bench.row(f"ours, {name}, batch {ours['batch']}", figures)
  inference_batch = bench.options.inference_batches[0]
  images = [rng.random((count, 3, *canvas), np.float32) for count in (inference_batch, box_batch)]
  boxes = synthetic.random_boxes(rng, (box_batch, synthetic.OBJECTS), canvas)
  measured = bench.attempt("torchvision", torch.detector, config, *images, boxes)
  if measured:
    name, inference, step = measured
    bench.row(f"{name}, inference", inference, inference_batch)
    bench.row(f"{name}, step", step, box_batch)


def clip(preset: str, dtype: str, options: Options) -> list[dict]:
  """Prints image embedding by a CLIP of `PRESETS`, from uint8 crops on the device; the rows.

  Of the options canvas, training batches, programs and classes are for detectors.

  Raises:
    ValueError: PyTorch is asked for and the tower is no vision transformer.
  """
  config = dataclasses.replace(PRESETS[preset], dtype=dtype)
  if options.torch and config.vision_patch_size is None:
    raise ValueError(f"PyTorch's side has vision transformers only, {preset} is a ResNet.")
  bench = Bench(f"CLIP {preset}", dtype, options)
  side = config.image_resolution
  bench.section(f"image embedding, {side}x{side}")
  model, rng = Clip(config), np.random.default_rng(0)
  init = functools.partial(model.init, method=Clip.encode_image)
  abstract = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
  variables = jax.device_put(synthetic.fill(abstract, rng))

  def embed(variables, images):
    return model.apply(variables, normalize(images), method=Clip.encode_image)

  torch = open_torch(bench, dtype) if options.torch else None
  compiler_options = matmul_options(jax.default_backend())  # as precompute does
  for batch in options.inference_batches:
    images = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
    args = variables, jax.device_put(images)
    name = f"ours, batch {batch}"
    bench.measure(name, embed, *args, images=batch, compiler_options=compiler_options)
    if torch:
      bench.row(f"torch, batch {batch}", torch.clip(config, images), batch)
  return bench.rows
