"""The same work in PyTorch: a ResNet-50 trunk, and torchvision's detectors with an FPN.

Both sides get the same sizes, batch and dtype (bfloat16: autocast) on the same kind of device;
torch its channels-last layout.  What is frozen is frozen on both sides: batch statistics, in the
detectors stem and res2 too.  The torch trunk is written out (torch_models.py), layer for layer the
one of `models.resnet`: torchvision's has its strides in the 3x3 convolutions, which is more work.
"""

import importlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.measure import Budget, Ceilings, Figures, measure
from rkd_jax.benchmark.report import Report
from rkd_jax.models.backbones.resnet import ResNet

_STAGE_BLOCKS = (3, 4, 6, 3)


def compare(
  config: ml_collections.ConfigDict,
  report: Report,
  budget: Budget,
  ceilings: Ceilings,
  inference_batch: int,
  box_batch: int,
  canvas: tuple[int, int],
) -> None:
  """Rows of both sides, or a line that says why torch's are missing."""
  report.section(f"against torch: ResNet-50 trunk, {box_batch} x {canvas[0]}x{canvas[1]}")
  rng = np.random.default_rng(3)
  images = rng.standard_normal((box_batch, *canvas, 3), np.float32)
  for name, figures in zip(_TRUNK_ROWS, _trunk(config, budget, ceilings, images), strict=True):
    report.row(f"ours, {name}", _per_image(figures, box_batch))
  try:
    # Optional, and heavy: imported only where it is asked for.
    torch_models = importlib.import_module("rkd_jax.benchmark.torch.models")
    torch = torch_models.TorchBenchmark(jax.default_backend(), config.model.dtype, budget)
  except (ImportError, RuntimeError) as error:
    report.note(f"torch is not measured: {_first_line(error)}")
    return
  for name, figures in zip(_TRUNK_ROWS, torch.trunk(images), strict=True):
    report.row(f"torch, {name}", _per_image(figures, box_batch))

  report.section(f"against torchvision's detector, {canvas[0]}x{canvas[1]}")
  if not config.model.fpn.channels:
    report.note("torchvision has no detector of this kind (C4): only those with an FPN compare.")
    return
  for name in ("inference", "box step"):
    ours = next((r for r in report.rows if r.get("name") == name), None)
    if ours is not None:
      report.row(f"ours, {name}, batch {ours['batch']}", ours)
  pictures = rng.random((max(inference_batch, box_batch), 3, *canvas), np.float32)
  boxes = synthetic.random_boxes(rng, (box_batch, synthetic.OBJECTS), canvas)
  try:
    name, inference, step = torch.detector(
      config, pictures[:inference_batch], pictures[:box_batch], boxes
    )
  except Exception as error:  # A torchvision that does not fit torch raises errors of any kind.
    report.note(f"torchvision is not measured: {_first_line(error)}")
    return
  report.row(f"{name}, inference", _per_image(inference, inference_batch))
  report.row(f"{name}, step", _per_image(step, box_batch))


_TRUNK_ROWS = ("forward", "forward and backward")


def _trunk(
  config: ml_collections.ConfigDict, budget: Budget, ceilings: Ceilings, images: np.ndarray
) -> tuple[Figures, Figures]:
  """Our trunk: all stages, every convolution trained."""
  model = ResNet(_STAGE_BLOCKS, dtype=jnp.dtype(config.model.dtype))
  abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
  params = jax.device_put(synthetic.fill(abstract, np.random.default_rng(0)))
  images = jax.device_put(images)

  def last_map(params, images):
    x = images.astype(config.model.dtype)
    return model.apply({"params": params}, x)[f"res{len(_STAGE_BLOCKS) + 1}"]

  def mean(params, images):
    return jnp.mean(last_map(params, images).astype(jnp.float32))

  _, forward = measure(last_map, (params, images), budget, ceilings)
  _, both = measure(jax.value_and_grad(mean), (params, images), budget, ceilings)
  return forward, both


def _per_image(figures: Figures, batch: int) -> Figures:
  return figures | {"images_per_s": batch / figures["seconds"], "batch": batch}


def _first_line(error: Exception) -> str:
  return f"{type(error).__name__}: {error}".splitlines()[0]
