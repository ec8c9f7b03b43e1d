"""The released checkpoint's parameter names and layouts, mapped to our modules.

The original lists its two heads under six names each, one for every fusion layer; only the last
fusion layer is read, so only that name is.  The pooler of the text encoder, which nothing uses, and
integer buffers are dropped.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rkd_jax.models.mavl.model import RELEASED, Mvit, MvitConfig

_IGNORED = re.compile(
  r"(class_embed|bbox_embed)\.\d+\..*|transformer\.text_encoder\.pooler\..*"
  r"|.*\.(position_ids|num_batches_tracked)"
)

_RENAMES = (
  (r"^backbone\.stem_norm", "backbone.0.body.bn1"),
  (r"^backbone\.stem", "backbone.0.body.conv1"),
  (r"^backbone\.res(\d)\.block", lambda m: f"backbone.0.body.layer{int(m[1]) - 1}."),
  (r"\.conv(\d)_norm", r".bn\1"),
  (r"\.shortcut_norm", ".downsample.1"),
  (r"\.shortcut", ".downsample.0"),
  (r"^input_proj_(\d)", r"input_proj.\1.0"),
  (r"^input_norm_(\d)", r"input_proj.\1.1"),
  (r"^query_embed$", "query_embed.weight"),
  (r"^text_encoder\.layer_(\d+)", r"text_encoder.encoder.layer.\1"),
  (r"\.attention\.(query|key|value)", r".attention.self.\1"),
  (r"\.attention\.out_proj", ".attention.output.dense"),
  (r"\.attention_norm", ".attention.output.LayerNorm"),
  (r"\.(intermediate|output)\.(?=kernel|bias)", r".\1.dense."),
  (r"\.output_norm", ".output.LayerNorm"),
  (r"^text_encoder\.embedding_norm", "text_encoder.embeddings.LayerNorm"),
  (r"^text_encoder\.(\w+_embeddings)", r"text_encoder.embeddings.\1"),
  (r"^(encoder|decoder)_(\d+)", r"\1.layers.\2"),
  (r"^fusion_(\d+)", r"img_text_attn.layers.\1"),
  (r"^resizer_", "resizer."),
  (r"^(?=level_embed|encoder|decoder|img_text|reference|text_encoder|resizer)", "transformer."),
  (r"\.(kernel|scale|embedding)$", ".weight"),
  (r"\.mean$", ".running_mean"),
  (r"\.var$", ".running_var"),
)


def torch_entry(path: tuple[str, ...], config: MvitConfig) -> tuple[str, int | None]:
  """The original's entry for one of our parameters; which third of it, where three share one."""
  last = config.fusion_layers - 1
  name = re.sub(r"^class_embed", f"class_embed.{last}", ".".join(path))
  name = re.sub(r"^bbox_embed_(\d)", rf"bbox_embed.{last}.layers.\1", name)
  for pattern, replacement in _RENAMES:
    name = re.sub(pattern, replacement, name)
  if match := re.fullmatch(r"(.*self_attn\.)(query|key|value)\.(weight|bias)", name):
    return f"{match[1]}in_proj_{match[3]}", ("query", "key", "value").index(match[2])
  return name, None


def params_from_torch(
  state: Mapping[str, np.ndarray], config: MvitConfig = RELEASED
) -> dict[str, Any]:
  """Variables of `Mvit(config)` from the state dict of the original, as float32 on the device.

  Raises:
    ValueError: missing, unknown or wrongly shaped entries, all of them listed.
  """
  variables, used, faults = {}, set(), []
  for path, expected in traverse_util.flatten_dict(abstract_variables(config)).items():
    name, third = torch_entry(path[1:], config)
    used.add(name)
    if name not in state:
      faults.append(f"missing {name} for {'/'.join(path[1:])} {expected.shape}")
      continue
    value = np.asarray(state[name])
    if third is not None:
      size = len(value) // 3
      value = value[third * size : (third + 1) * size]
    if path[-1] == "kernel" and value.ndim in (2, 4):
      # (out, in) to (in, out) and OIHW to HWIO; everything else is stored alike.
      value = value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
    if value.shape != expected.shape:
      faults.append(f"{name} gives shape {value.shape}, the config needs {expected.shape}")
    variables[path] = jnp.asarray(value, jnp.float32)
  faults += [f"unknown {n}" for n in state if n not in used and not _IGNORED.fullmatch(n)]
  if faults:
    listed = "\n  ".join(faults)
    raise ValueError(f"the state dict does not fit this MAVL config; check its sizes:\n  {listed}")
  return traverse_util.unflatten_dict(variables)


def abstract_variables(config: MvitConfig = RELEASED) -> dict[str, Any]:
  """Shapes and types of the variables of `Mvit(config)`."""
  return jax.eval_shape(
    Mvit(config).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 2), jnp.int32),
    jax.ShapeDtypeStruct((1, 2), jnp.bool_),
  )
