"""A multi-modal ViT small enough for tests, with random weights and a tokenizer for any words."""

import functools
import zlib

import numpy as np
from flax import traverse_util

from rkd_jax.models.mavl.model import MvitConfig
from rkd_jax.models.mavl.tokenizer import Tokens, pad_rows
from rkd_jax.weights.mavl import abstract_variables, entries

CONFIG = MvitConfig(
  stage_blocks=(1, 1, 1, 1),
  stage_width=8,
  width=32,
  norm_groups=8,
  heads=4,
  points=2,
  hidden=16,
  encoder_layers=1,
  decoder_layers=1,
  fusion_layers=2,
  queries=12,
  classes=8,
  vocab_size=40,
  text_width=16,
  text_layers=1,
  text_heads=2,
  text_hidden=16,
  text_positions=34,
)


@functools.cache
def state_dict(seed: int = 0) -> dict[str, np.ndarray]:
  """Names and layouts of the original, for `CONFIG`."""
  rng = np.random.default_rng(seed)
  variables, found = abstract_variables(CONFIG), {}
  names = {path: entry.name for path, entry in entries(variables, CONFIG).items()}
  for path, expected in traverse_util.flatten_dict(variables).items():
    name, shape = names["/".join(path)], expected.shape
    third = ("query", "key", "value").index(path[-2]) if "in_proj_" in name else 0
    if path[-1] == "kernel":
      shape = (shape[-1], shape[-2], *shape[:-2])
    scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
    offset = 1.0 if path[-1] in ("scale", "var") else 0.0
    value = (offset + scale * rng.normal(size=shape)).astype(np.float32)
    if name.startswith("bbox_embed"):
      value *= 4  # so that boxes reach beyond the image
    found.setdefault(name, {})[third] = np.abs(value) if path[-1] == "var" else value
  return {name: np.concatenate([v[i] for i in sorted(v)]) for name, v in found.items()}


def tokenize(texts) -> Tokens:
  """One token per word, between two marks."""
  words = [[3 + zlib.crc32(word.encode()) % 37 for word in text.split()] for text in texts]
  return pad_rows([[0, *ids, 2] for ids in words])
