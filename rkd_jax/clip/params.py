"""CLIP's published parameter names and layouts, mapped to our modules."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax import numpy as jnp

from rkd_jax.clip.model import Clip, ClipConfig

# Entries of released archives that hold no weight.
_IGNORED = re.compile(r"(.*\.num_batches_tracked|input_resolution|context_length|vocab_size)$")

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


def params_from_torch(state: Mapping[str, np.ndarray], config: ClipConfig) -> dict[str, Any]:
  """Variables of `Clip(config)` from the state dict of an original CLIP model, as float32.

  Every entry is accounted for; the integer entries of released archives hold no weight and are
  dropped.  The collection "batch_stats" is there for ModifiedResNet towers only.

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
    value = _from_torch_layout(path, np.asarray(state[name]))
    if value.shape != expected.shape:
      faults.append(f"{name} gives shape {value.shape}, the config needs {expected.shape}")
    variables[path] = value.astype(np.float32)
  faults += [f"unknown {name}" for name in state if name not in used and not _IGNORED.match(name)]
  if faults:
    listed = "\n  ".join(faults)
    raise ValueError(f"the state dict does not fit this CLIP config; check its sizes:\n  {listed}")
  return traverse_util.unflatten_dict(variables)
