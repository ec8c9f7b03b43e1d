"""CLIP's published weights, by the names of OpenAI, open_clip and Hugging Face.

Names of the two others become OpenAI's first.  What shapes do not tell (activation, heads) is in
`clip_settings`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rkd_jax.models.clip.model import Clip, ClipConfig, init_clip
from rkd_jax.weights import rename
from rkd_jax.weights.clip_settings import Layout, Settings

# Entries of released archives that hold no weight.
_IGNORED = (
  r".*\.num_batches_tracked|input_resolution|context_length|vocab_size"
  r"|attn_mask|(.*\.)?position_ids"
)

# What the original keeps in half precision: convolutions, linear layers, attention, projections.
# The token embedding is not one of them, nor are positions and norms.
_HALF = re.compile(
  r"(.*\.conv\d\.|.*\.downsample\.0\.|.*_proj\.|.*\.c_fc\.|.*\.in_proj_"
  r"|(visual\.proj|text_projection)$)"
)

# What OpenAI's archives state of themselves.
_STATED = {
  "image_resolution": "input_resolution",
  "context_length": "context_length",
  "vocab_size": "vocab_size",
}
STATED = frozenset(_STATED.values())
# Of a tower; the largest published has 56.
_MAX_LAYERS = 128

_RENAMES = (
  (r"^(params|batch_stats)\.(text\.)?", ""),
  (r"block_(\d+)", r"transformer.resblocks.\1"),
  (r"layer(\d+)_(\d+)", r"layer\1.\2"),
  (r"downsample_conv", "downsample.0"),
  (r"downsample_bn", "downsample.1"),
  (r"in_proj\.kernel$", "in_proj_weight"),
  (r"in_proj\.bias$", "in_proj_bias"),
)

# Hugging Face's names to OpenAI's.
_HUGGING_FACE = (
  (r"^text_projection\.weight$", "text_projection"),
  (r"^visual_projection\.weight$", "visual.proj"),
  (r"^text_model\.(embeddings\.)?", ""),
  (r"^vision_model\.(embeddings\.)?", "visual."),
  (r"^(visual\.|)position_embedding\.weight$", r"\1positional_embedding"),
  (r"^visual\.patch_embedding\.", "visual.conv1."),
  (r"^visual\.pre_layrnorm\.", "visual.ln_pre."),
  (r"^visual\.post_layernorm\.", "visual.ln_post."),
  (r"^final_layer_norm\.", "ln_final."),
  (r"\bencoder\.layers\.", "transformer.resblocks."),
  (r"\.self_attn\.", ".attn."),
  (r"\.layer_norm(\d)\.", r".ln_\1."),
  (r"\.mlp\.fc1\.", ".mlp.c_fc."),
  (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def layout_of(state: Mapping[str, np.ndarray]) -> Layout:
  """Whose names these are; open_clip's without a wrapping are OpenAI's."""
  if "text_model.embeddings.token_embedding.weight" in state:
    return "hugging_face"
  if any(name.startswith(("module.", "_orig_mod.", "text.")) for name in state):
    return "open_clip"
  return "openai"


def to_openai(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """The state dict under OpenAI's names and in its layout; unknown entries keep theirs."""
  state = rename.unwrapped(state)
  layout = layout_of(state)
  if layout == "openai":
    return state
  if layout == "open_clip":
    return {name.removeprefix("text."): value for name, value in state.items()}
  found = {rename.renamed(name, _HUGGING_FACE): value for name, value in state.items()}
  for name in {"text_projection", "visual.proj"} & found.keys():
    found[name] = found[name].T
  for name in [name for name in found if ".attn.q_proj." in name]:
    parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
    if all(part in found for part in parts):
      stacked = np.concatenate([found.pop(part) for part in parts])
      found[name.replace("q_proj.", "in_proj_")] = stacked
  return found


def config_from_torch(state: Mapping[str, np.ndarray], settings: Settings) -> ClipConfig:
  """The config of an original CLIP, whose sizes the shapes in its state dict tell.

  Raises:
    ValueError: entries are missing, have shapes that no CLIP has, or other ones than the settings
      state.
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
    result = len({match[1] for match in found if match})
    if not 0 < result <= _MAX_LAYERS:
      raise ValueError(f"{result} layers are named as {pattern}; a CLIP has 1 to {_MAX_LAYERS}")
    return result

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
  config = ClipConfig(
    embed_dim=shape("text_projection", 2)[1],
    image_resolution=resolution,
    vision_layers=layers,
    vision_width=width,
    vision_patch_size=patch,
    vision_heads=settings.vision_heads,
    context_length=context_length,
    vocab_size=shape("token_embedding.weight", 2)[0],
    transformer_width=text_width,
    transformer_heads=settings.text_heads or max(1, text_width // 64),
    transformer_layers=count(r"transformer\.resblocks\.(\d+)\."),
    activation=settings.activation or "quick_gelu",
  )
  stated = dict(settings.stated)
  for ours, theirs in _STATED.items():
    if theirs in state and np.shape(state[theirs]) == ():
      stated[ours] = int(state[theirs])
  for key, value in stated.items():
    if getattr(config, key) != value:
      raise ValueError(
        f"{key} is {value} by its description, and {getattr(config, key)} by the shapes of its"
        " arrays: they belong to two models"
      )
  return config


def params_from_torch(
  state: Mapping[str, np.ndarray], config: ClipConfig, half: bool = False
) -> dict[str, Any]:
  """Variables of `Clip(config)` from the state dict of an original CLIP model, as float32.

  With `half`, weights that the original's loader keeps in half precision are rounded to it: it does
  so with every file, also where it computes in float32 (on a CPU).

  Raises:
    WeightsError: see `rename.to_params`.
  """
  variables = jax.eval_shape(lambda: init_clip(Clip(config), jax.random.key(0)))
  if half:
    state = {
      name: np.asarray(value).astype(np.float16) if _HALF.match(name) else value
      for name, value in state.items()
    }
  entries = rename.usual_entries(variables, _RENAMES)
  remedy = "Give all of a CLIP's weights, and the sizes that it has"
  return rename.to_params(state, variables, entries, remedy, _IGNORED)
