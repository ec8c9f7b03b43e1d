"""Image embedding by a published CLIP: uint8 crops on the device in, embeddings out.

Weights are made up.  PyTorch's side is the same tower with its fused attention (torch_models.py);
the ratio of the two rows of a batch is what counts, since both ran on the same machine just then.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.comparisons import open_torch
from rkd_jax.benchmark.report import Bench, Options
from rkd_jax.machine.compilation import matmul_options
from rkd_jax.models.clip.model import PRESETS, Clip
from rkd_jax.models.clip.preprocess import normalize


def run(preset: str, dtype: str, options: Options) -> list[dict]:
  """Prints the table; the rows, as they are in the JSON.

  Args:
    preset: one of `clip.model.PRESETS`.
    dtype: of the computation, "float32" or "bfloat16".
    options: batches of inference, torch, output and budget; the rest is for detectors.

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
