"""Image embedding by a published CLIP: uint8 crops on the device in, embeddings out.

Weights are made up.  PyTorch's side is the same tower with its fused attention (torch_models.py);
the ratio of the two rows of a batch is what counts, since both ran on the same machine just then.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.report import Bench, Options
from rkd_jax.benchmark.torch import compare as against_torch
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
  bench = Bench(f"CLIP {preset}", dtype, options)
  side = config.image_resolution
  bench.section(f"image embedding, {side}x{side}")
  variables = _variables(config)
  rng = np.random.default_rng(0)

  def embed(variables, images):
    return Clip(config).apply(variables, normalize(images), method=Clip.encode_image)

  for batch in options.inference_batches:
    images = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
    bench.measure(
      f"ours, batch {batch}",
      embed,
      variables,
      jax.device_put(images),
      images=batch,
      compiler_options=matmul_options(jax.default_backend()),  # as precompute does
    )
    if options.torch and (torch := against_torch.open_torch(bench, dtype)):
      bench.row(f"torch, batch {batch}", torch.clip(config, images), batch)
  return bench.rows


def _variables(config: ClipConfig):
  """Made-up weights of the image tower, on the device."""
  image = jnp.zeros((1, config.image_resolution, config.image_resolution, 3))
  abstract = jax.eval_shape(
    lambda key: Clip(config).init(key, image, method=Clip.encode_image), jax.random.key(0)
  )
  return jax.device_put(synthetic.fill(abstract, np.random.default_rng(0)))
