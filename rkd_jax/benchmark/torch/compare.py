"""The same work in PyTorch: a ResNet-50 trunk, and torchvision's detectors with an FPN.

Both sides get the same sizes, batch and dtype (bfloat16: autocast) on the same kind of device;
torch its channels-last layout.  What is frozen is frozen on both sides: batch statistics, in the
detectors stem and res2 too.  The trunk is torchvision's with its strides where ours are.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.report import Bench
from rkd_jax.models.backbones.resnet import ResNet

_STAGE_BLOCKS = (3, 4, 6, 3)
_TRUNK_ROWS = ("forward", "forward and backward")


def open_torch(bench: Bench, dtype: str) -> Any:
  """A `TorchBenchmark`; None, and a line that says why, where torch cannot be used."""
  try:
    # Optional, and heavy: imported only where it is asked for.
    models = importlib.import_module("rkd_jax.benchmark.torch.models")
    return models.TorchBenchmark(jax.default_backend(), dtype, bench.budget)
  except (ImportError, RuntimeError) as error:
    bench.note(f"torch is not measured: {_first_line(error)}")
    return None


def compare(
  config: ml_collections.ConfigDict,
  bench: Bench,
  inference_batch: int,
  box_batch: int,
  canvas: tuple[int, int],
) -> None:
  """Rows of both sides, or a line that says why torch's are missing."""
  bench.section(f"against torch: ResNet-50 trunk, {box_batch} x {canvas[0]}x{canvas[1]}")
  rng = np.random.default_rng(3)
  images = rng.standard_normal((box_batch, *canvas, 3), np.float32)
  _trunk(config.model.dtype, bench, images)
  torch = open_torch(bench, config.model.dtype)
  if torch is None:
    return
  measured = _measured(bench, torch.trunk, images)
  if measured is None:
    return
  for name, figures in zip(_TRUNK_ROWS, measured, strict=True):
    bench.row(f"torch, {name}", figures, box_batch)

  bench.section(f"against torchvision's detector, {canvas[0]}x{canvas[1]}")
  if not config.model.fpn.channels:
    bench.note("torchvision has no detector of this kind (C4): only those with an FPN compare.")
    return
  for name in ("inference", "box step"):
    ours = next((r for r in bench.rows if r.get("name") == name), None)
    if ours is not None:
      figures = {key: value for key, value in ours.items() if key not in ("section", "name")}
      bench.row(f"ours, {name}, batch {ours['batch']}", figures)
  pictures = rng.random((max(inference_batch, box_batch), 3, *canvas), np.float32)
  boxes = synthetic.random_boxes(rng, (box_batch, synthetic.OBJECTS), canvas)
  images = pictures[:inference_batch], pictures[:box_batch]
  measured = _measured(bench, torch.detector, config, *images, boxes)
  if measured is not None:
    name, inference, step = measured
    bench.row(f"{name}, inference", inference, inference_batch)
    bench.row(f"{name}, step", step, box_batch)


def _trunk(dtype: str, bench: Bench, images: np.ndarray) -> None:
  """Our trunk: all stages, every convolution trained."""
  model = ResNet(_STAGE_BLOCKS, dtype=jnp.dtype(dtype))
  abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
  args = jax.device_put((synthetic.fill(abstract, np.random.default_rng(0)), images))

  def last_map(params, images):
    x = images.astype(dtype)
    return model.apply({"params": params}, x)[-1]

  def mean(params, images):
    return jnp.mean(last_map(params, images).astype(jnp.float32))

  for name, function in zip(_TRUNK_ROWS, (last_map, jax.value_and_grad(mean)), strict=True):
    bench.measure(f"ours, {name}", function, *args, images=len(images))


def _measured(bench: Bench, function: Callable, *args: Any) -> Any:
  """What the function returns; None, and a line that says why, where torchvision fails."""
  try:
    return function(*args)
  except Exception as error:  # A torchvision that does not fit torch raises errors of any kind.
    bench.note(f"torchvision is not measured: {_first_line(error)}")
    return None


def _first_line(error: Exception) -> str:
  return f"{type(error).__name__}: {error}".splitlines()[0]
