"""State dicts of OpenAI's CLIP models: their names and shapes, and weights that a formula makes."""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from rkd_jax.models.clip.model import ClipConfig

GOLDEN = Path(__file__).parents[0] / "golden" / "clip_published.npz"


def standard_normal(key: str, shape) -> np.ndarray:
  state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
  return np.asarray(state.standard_normal(shape), np.float32)


class Weights(Mapping[str, np.ndarray]):
  """The state dict of a golden model; an array is made when it is asked for, to save memory."""

  def __init__(self, model: str):
    with np.load(GOLDEN) as golden:
      manifest = json.loads(golden[f"{model}/manifest"].tobytes())
    self.config = ClipConfig.from_dict(manifest["config"])
    self._entries = {entry["name"]: entry for entry in manifest["params"]}

  def __getitem__(self, name: str) -> np.ndarray:
    entry = self._entries[name]
    values = np.float32(entry["scale"]) * standard_normal(name, entry["shape"])
    return (values + np.float32(entry["offset"])).astype(
      np.float16 if entry.get("half") else np.float32
    )

  def __contains__(self, name: str) -> bool:
    return name in self._entries

  def __iter__(self) -> Iterator[str]:
    return iter(self._entries)

  def __len__(self) -> int:
    return len(self._entries)

  def shapes(self) -> dict[str, tuple[int, ...]]:
    return {name: tuple(entry["shape"]) for name, entry in self._entries.items()}


def shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
  """Every float entry of the state dict of a model of these sizes, written out independently."""
  result = {
    "logit_scale": (),
    "positional_embedding": (config.context_length, config.transformer_width),
    "token_embedding.weight": (config.vocab_size, config.transformer_width),
    "text_projection": (config.transformer_width, config.embed_dim),
    **_norm("ln_final", config.transformer_width),
    **_transformer("", config.transformer_layers, config.transformer_width),
  }
  width, dim = config.vision_width, config.embed_dim
  if config.vision_patch_size:
    patch = config.vision_patch_size
    result |= {
      "visual.class_embedding": (width,),
      "visual.positional_embedding": ((config.image_resolution // patch) ** 2 + 1, width),
      "visual.proj": (width, dim),
      "visual.conv1.weight": (width, 3, patch, patch),
      **_norm("visual.ln_pre", width),
      **_norm("visual.ln_post", width),
      **_transformer("visual.", config.vision_layers, width),
    }
    return result
  for i, (inputs, outputs) in enumerate(((3, width // 2), (width // 2, width // 2)), start=1):
    result |= _conv(f"visual.conv{i}", f"visual.bn{i}", inputs, outputs, 3)
  result |= _conv("visual.conv3", "visual.bn3", width // 2, width, 3)
  inputs = width
  for stage, blocks in enumerate(config.vision_layers):
    planes = width * 2**stage
    for block in range(blocks):
      prefix = f"visual.layer{stage + 1}.{block}"
      result |= _conv(f"{prefix}.conv1", f"{prefix}.bn1", inputs, planes, 1)
      result |= _conv(f"{prefix}.conv2", f"{prefix}.bn2", planes, planes, 3)
      result |= _conv(f"{prefix}.conv3", f"{prefix}.bn3", planes, 4 * planes, 1)
      if block == 0:
        shortcut = f"{prefix}.downsample"
        result |= _conv(f"{shortcut}.0", f"{shortcut}.1", inputs, 4 * planes, 1)
      inputs = 4 * planes
  side = config.image_resolution // 32
  result["visual.attnpool.positional_embedding"] = (side * side + 1, inputs)
  for name, outputs in (("q", inputs), ("k", inputs), ("v", inputs), ("c", dim)):
    result |= _linear(f"visual.attnpool.{name}_proj", inputs, outputs)
  return result


def _transformer(prefix: str, layers: int, width: int) -> dict[str, tuple[int, ...]]:
  result = {}
  for layer in range(layers):
    block = f"{prefix}transformer.resblocks.{layer}"
    result |= {
      f"{block}.attn.in_proj_weight": (3 * width, width),
      f"{block}.attn.in_proj_bias": (3 * width,),
      **_linear(f"{block}.attn.out_proj", width, width),
      **_norm(f"{block}.ln_1", width),
      **_linear(f"{block}.mlp.c_fc", width, 4 * width),
      **_linear(f"{block}.mlp.c_proj", 4 * width, width),
      **_norm(f"{block}.ln_2", width),
    }
  return result


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
  return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
  return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _conv(
  name: str, norm: str, inputs: int, outputs: int, kernel: int
) -> dict[str, tuple[int, ...]]:
  return {
    f"{name}.weight": (outputs, inputs, kernel, kernel),
    **_norm(norm, outputs),
    f"{norm}.running_mean": (outputs,),
    f"{norm}.running_var": (outputs,),
  }
