"""MAVL's released checkpoint: its parameters' names and layouts, mapped to our modules.

The original lists its two heads under six names each, one for every fusion layer; only the last
fusion layer is read, so only that name is.  The pooler of the text encoder, which nothing uses, and
integer buffers are dropped.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rkd_jax.models.mavl.model import RELEASED, Mvit, MvitConfig
from rkd_jax.weights import rename
from rkd_jax.weights.rename import Entry

_IGNORED = (
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
)


def entries(variables: Any, config: MvitConfig = RELEASED) -> dict[str, Entry]:
  """Where the original has every one of the variables (arrays or shapes) of `Mvit(config)`."""
  last = config.fusion_layers - 1
  rules = (
    (r"^(params|batch_stats)\.", ""),
    (r"^class_embed", f"class_embed.{last}"),
    (r"^bbox_embed_(\d)", rf"bbox_embed.{last}.layers.\1"),
    *_RENAMES,
    (r"self_attn\.(query|key|value)\.kernel", "self_attn.in_proj_weight"),
    (r"self_attn\.(query|key|value)\.bias", "self_attn.in_proj_bias"),
  )
  found = rename.usual_entries(variables, rules)
  for path, (name, layout) in found.items():
    if "self_attn.in_proj_" in name:
      part = ("query", "key", "value").index(path.split("/")[-2])
      found[path] = Entry(name, rename.third(part, layout))
  return found


def params_from_torch(
  state: Mapping[str, np.ndarray], config: MvitConfig = RELEASED
) -> dict[str, Any]:
  """Variables of `Mvit(config)` from the state dict of the original, as float32.

  Raises:
    WeightsError: see `rename.to_params`.
  """
  variables = abstract_variables(config)
  remedy = "Give MAVL's released checkpoint, or the sizes that yours has"
  state = rename.unwrapped(state)
  return rename.to_params(state, variables, entries(variables, config), remedy, _IGNORED)


def abstract_variables(config: MvitConfig = RELEASED) -> dict[str, Any]:
  """Shapes and types of the variables of `Mvit(config)`."""
  return jax.eval_shape(
    Mvit(config).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 2), jnp.int32),
    jax.ShapeDtypeStruct((1, 2), jnp.bool_),
  )
