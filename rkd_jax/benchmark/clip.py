"""Image embedding by a published CLIP: uint8 crops on the device in, embeddings out.

Weights are made up.  PyTorch's side is the same tower with its fused attention (torch_models.py);
the ratio of the two rows of a batch is what counts, since both ran on the same machine just then.
"""

import dataclasses
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.measure import Budget, Ceilings, Figures, machine, measure, measure_ceilings
from rkd_jax.benchmark.report import Report
from rkd_jax.benchmark.run import Options
from rkd_jax.machine.compilation import matmul_options
from rkd_jax.models.clip.model import PRESETS, Clip, ClipConfig
from rkd_jax.models.clip.preprocess import normalize


def run(preset: str, dtype: str, options: Options) -> list[dict]:
  """Prints the table; the rows, as they are in the JSON.

  Args:
    preset: one of `clip.model.PRESETS`.
    dtype: of the computation, "float32" or "bfloat16".
    options: batches of inference, torch, output and budget; the rest is for detectors.

  Raises:
    ValueError: an unknown preset, or PyTorch is asked for and the tower is no vision transformer.
  """
  if preset not in PRESETS:
    raise ValueError(f"CLIP {preset!r} is not one of {', '.join(PRESETS)}.")
  config = dataclasses.replace(PRESETS[preset], dtype=dtype)
  if options.torch and config.vision_patch_size is None:
    raise ValueError(f"PyTorch's side has vision transformers only, {preset} is a ResNet.")
  budget = Budget(options.steps, options.budget_seconds())
  ceilings = measure_ceilings(dtype, budget)
  header = {
    "arguments": " ".join(sys.argv[1:]),
    "name": f"CLIP {preset}",
    "dtype": dtype,
    "machine": machine(),
    "ceilings": dataclasses.asdict(ceilings),
  }
  report = Report(header, options.output)
  report.section(f"image embedding, {config.image_resolution}x{config.image_resolution}")
  rng = np.random.default_rng(0)
  for batch in options.inference_batches:
    size = (batch, config.image_resolution, config.image_resolution, 3)
    images = rng.integers(0, 256, size, np.uint8)
    report.row(f"ours, batch {batch}", _per_image(_ours(config, images, budget, ceilings), batch))
    if options.torch:
      _compare_torch(config, images, budget, report)
  return report.rows


def _ours(config: ClipConfig, images: np.ndarray, budget: Budget, ceilings: Ceilings) -> Figures:
  model = Clip(config)
  size = config.image_resolution
  abstract = jax.eval_shape(
    lambda key: model.init(key, jnp.zeros((1, size, size, 3)), method=Clip.encode_image),
    jax.random.key(0),
  )
  variables = jax.device_put(synthetic.fill(abstract, np.random.default_rng(0)))

  def embed(variables, images):
    return model.apply(variables, normalize(images), method=Clip.encode_image)

  args = (variables, jax.device_put(images))
  options = matmul_options()  # as the offline step does
  _, figures = measure(embed, args, budget, ceilings, compiler_options=options)
  return figures


def _compare_torch(config: ClipConfig, images: np.ndarray, budget: Budget, report: Report) -> None:
  """PyTorch's row, or a line that says why it is missing."""
  try:
    # Optional, and heavy: imported only where it is asked for.
    torch_models = importlib.import_module("rkd_jax.benchmark.torch.models")
    torch = torch_models.TorchBenchmark(jax.default_backend(), config.dtype, budget)
  except (ImportError, RuntimeError) as error:
    report.note(f"torch is not measured: {type(error).__name__}: {error}".splitlines()[0])
    return
  batch = len(images)
  report.row(f"torch, batch {batch}", _per_image(torch.clip(config, images), batch))


def _per_image(figures: Figures, batch: int) -> Figures:
  return figures | {"images_per_s": batch / figures["seconds"], "batch": batch}
