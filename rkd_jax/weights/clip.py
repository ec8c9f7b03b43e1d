"""CLIP's published parameter names and layouts, mapped to our modules."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax import numpy as jnp

from rkd_jax.models.clip.model import Clip, ClipConfig

# Entries of released archives that hold no weight.
_IGNORED = re.compile(r"(.*\.num_batches_tracked|input_resolution|context_length|vocab_size)$")

# What the original keeps in half precision: convolutions, linear layers, attention, projections.
# The token embedding is not one of them, nor are positions and norms.
_HALF = re.compile(
  r"(.*\.conv\d\.|.*\.downsample\.0\.|.*_proj\.|.*\.c_fc\.|.*\.in_proj_"
  r"|(visual\.proj|text_projection)$)"
)

_RENAMES = (
  (r"^text\.", ""),
  (r"block_(\d+)", r"transformer.resblocks.\1"),
  (r"layer(\d+)_(\d+)", r"layer\1.\2"),
  (r"downsample_conv", "downsample.0"),
  (r"downsample_bn", "downsample.1"),
  (r"in_proj\.kernel$", "in_proj_weight"),
  (r"in_proj\.bias$", "in_proj_bias"),
  (r"\.(kernel|scale|embedding)$", ".weight"),
  (r"\.mean$", ".running_mean"),
  (r"\.var$", ".running_var"),
)


def config_from_torch(
  state: Mapping[str, np.ndarray],
  activation: str = "quick_gelu",
  vision_heads: int | None = None,
  text_heads: int | None = None,
) -> ClipConfig:
  """The sizes that the shapes of an original CLIP's state dict tell.

  Args:
    state: arrays by OpenAI's names.
    activation: of the transformers; nothing in the state dict tells it.
    vision_heads, text_heads: nor these; None is one per 64 channels, as in OpenAI's models.

  Raises:
    ValueError: entries are missing, or have shapes that no CLIP has.
  """

  def shape(name: str, rank: int) -> tuple[int, ...]:
    if name not in state:
      raise ValueError(f"this is not the state dict of a CLIP: it has no {name}")
    found = np.shape(state[name])
    if len(found) != rank or 0 in found:
      raise ValueError(f"{name} has shape {found}; in a CLIP it has {rank} dimensions")
    return found

  def count(pattern: str) -> int:
    found = (re.match(pattern, name) for name in state)
    return len({match[1] for match in found if match})

  def side(name: str) -> int:
    positions = shape(name, 2)[0] - 1
    if (result := math.isqrt(positions)) ** 2 != positions:
      raise ValueError(f"{name} has {positions + 1} rows; expected a square and one")
    return result

  if "visual.proj" in state:
    width, *_, patch = shape("visual.conv1.weight", 4)
    layers = count(r"visual\.transformer\.resblocks\.(\d+)\.")
    resolution = patch * side("visual.positional_embedding")
  else:
    width, patch = shape("visual.layer1.0.conv1.weight", 4)[0], None
    stages = count(r"visual\.layer(\d+)\.")
    layers = tuple(count(rf"visual\.layer{stage}\.(\d+)\.") for stage in range(1, stages + 1))
    resolution = 2 ** (stages + 1) * side("visual.attnpool.positional_embedding")
  context_length, text_width = shape("positional_embedding", 2)
  return ClipConfig(
    embed_dim=shape("text_projection", 2)[1],
    image_resolution=resolution,
    vision_layers=layers,
    vision_width=width,
    vision_patch_size=patch,
    vision_heads=vision_heads,
    context_length=context_length,
    vocab_size=shape("token_embedding.weight", 2)[0],
    transformer_width=text_width,
    transformer_heads=text_heads or max(1, text_width // 64),
    transformer_layers=count(r"transformer\.resblocks\.(\d+)\."),
    activation=activation,
  )


def _torch_name(path: tuple[str, ...]) -> str:
  name = ".".join(path)
  for pattern, replacement in _RENAMES:
    name = re.sub(pattern, replacement, name)
  return name


def _from_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
  """(out, in) to (in, out) and OIHW to HWIO; everything else is stored alike."""
  if path[-1] != "kernel":
    return value
  return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)


def params_from_torch(
  state: Mapping[str, np.ndarray], config: ClipConfig, half: bool = False
) -> dict[str, Any]:
  """Variables of `Clip(config)` from the state dict of an original CLIP model, as float32.

  Every entry is accounted for; the integer entries of released archives hold no weight and are
  dropped.  The collection "batch_stats" is there for ModifiedResNet towers only.  With `half`,
  weights that the original's loader keeps in half precision are rounded to it: it does so with
  every file, also where it computes in float32 (on a CPU).

  Raises:
    ValueError: missing, unknown or wrongly shaped entries, all of them listed.
  """
  size = config.image_resolution
  shapes = jax.eval_shape(
    Clip(config).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, config.context_length), jnp.int32),
  )
  variables, used, faults = {}, set(), []
  for path, expected in traverse_util.flatten_dict(shapes).items():
    name = _torch_name(path[1:])
    used.add(name)
    if name not in state:
      faults.append(f"missing {name} for {'/'.join(path)} {expected.shape}")
      continue
    stored = np.asarray(state[name])
    value = _from_torch_layout(path, stored)
    if value.shape != expected.shape:
      faults.append(f"{name} gives shape {value.shape}, the config needs {expected.shape}")
    elif not jnp.issubdtype(value.dtype, jnp.floating):
      faults.append(f"{name} has dtype {value.dtype}, expected floats")
    else:
      rounded = value.astype(np.float16) if half and _HALF.match(name) else value
      variables[path] = rounded.astype(np.float32)
  faults += [f"unknown {name}" for name in state if name not in used and not _IGNORED.match(name)]
  if faults:
    listed = "\n  ".join(faults)
    raise ValueError(f"the state dict does not fit this CLIP config; check its sizes:\n  {listed}")
  return traverse_util.unflatten_dict(variables)
