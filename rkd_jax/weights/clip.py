"""CLIP's published weights, by the names of OpenAI, open_clip and Hugging Face.

Names of the two others become OpenAI's first.  What shapes do not tell (activation, heads) stands
in a JSON file that both publish beside the weights.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rkd_jax.files.json_checks import read_json
from rkd_jax.models.clip import preprocess
from rkd_jax.models.clip.model import Clip, ClipConfig, init_clip
from rkd_jax.weights import rename

Layout = Literal["openai", "open_clip", "hugging_face"]

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
  if any(name.startswith(("module.", "text.")) for name in state):
    return "open_clip"
  return "openai"


def to_openai(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """The state dict under OpenAI's names and in its layout; unknown entries keep theirs."""
  layout = layout_of(state)
  if layout == "openai":
    return state
  if layout == "open_clip":
    return {name.removeprefix("module.").removeprefix("text."): v for name, v in state.items()}
  found = {rename.renamed(name, _HUGGING_FACE): value for name, value in state.items()}
  for name in {"text_projection", "visual.proj"} & found.keys():
    found[name] = found[name].T
  for name in [name for name in found if ".attn.q_proj." in name]:
    parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
    if all(part in found for part in parts):
      stacked = np.concatenate([found.pop(part) for part in parts])
      found[name.replace("q_proj.", "in_proj_")] = stacked
  return found


class Settings(NamedTuple):
  """What the shapes do not tell, with None for what OpenAI's models have.

  That is quick_gelu, and a head for each 64 channels.
  """

  activation: str | None = None
  vision_heads: int | None = None
  text_heads: int | None = None


def config_from_torch(state: Mapping[str, np.ndarray], settings: Settings) -> ClipConfig:
  """The config of an original CLIP, whose sizes the shapes in its state dict tell.

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
    vision_heads=settings.vision_heads,
    context_length=context_length,
    vocab_size=shape("token_embedding.weight", 2)[0],
    transformer_width=text_width,
    transformer_heads=settings.text_heads or max(1, text_width // 64),
    transformer_layers=count(r"transformer\.resblocks\.(\d+)\."),
    activation=settings.activation or "quick_gelu",
  )


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


def read_settings(weights: str | Path, layout: Layout) -> Settings | None:
  """From config.json (Hugging Face) or open_clip_config.json (open_clip), if beside the weights.

  Raises:
    ValueError: it is malformed, or describes a model that is not built here.
  """
  if layout == "hugging_face":
    name, parse = "config.json", _hugging_face_settings
  else:
    name, parse = "open_clip_config.json", _open_clip_settings
  path = Path(weights).with_name(name)
  if not path.exists():
    return None
  content = read_json(path)
  if not isinstance(content, dict):
    raise ValueError(f"{path}: expected a JSON object.")
  return parse(content, path)


def _block(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
  block = content.get(key)
  if not isinstance(block, dict):
    raise ValueError(f"{path} has no {key!r}; expected the description of a CLIP with two towers.")
  return block


def _hugging_face_settings(content: Mapping[str, Any], path: Path) -> Settings:
  vision, text = (_block(content, f"{tower}_config", path) for tower in ("vision", "text"))
  activations = {tower.get("hidden_act", "quick_gelu") for tower in (vision, text)}
  if len(activations) > 1:
    raise ValueError(
      f"{path}: the towers have the activations {sorted(activations)}, expected one."
    )
  for tower in (vision, text):
    if (epsilon := tower.get("layer_norm_eps", 1e-5)) != 1e-5:
      raise ValueError(f"{path}: layer_norm_eps is {epsilon}; layer norms here have 1e-5.")
  heads = (tower.get("num_attention_heads") for tower in (vision, text))
  return Settings(activations.pop(), *heads)


_OPEN_CLIP_KNOWN = {
  *("image_size", "layers", "width", "head_width", "patch_size"),
  *("context_length", "vocab_size", "heads"),
}


def _open_clip_settings(content: Mapping[str, Any], path: Path) -> Settings:
  model = _block(content, "model_cfg", path)
  vision, text = _block(model, "vision_cfg", path), _block(model, "text_cfg", path)
  for tower in (vision, text):
    for key, value in tower.items():
      if value and key not in _OPEN_CLIP_KNOWN:
        raise ValueError(
          f"{path}: {key!r} is {value!r}, which the towers here do not have; use a model of"
          " open_clip with plain ViT or ResNet towers."
        )
  pixels = content.get("preprocess_cfg", {})
  for key, expected in (("mean", preprocess.MEAN), ("std", preprocess.STD)):
    found = pixels.get(key, expected)
    if np.shape(found) != (3,) or not np.allclose(found, expected, atol=1e-4):
      raise ValueError(f"{path}: the pixel {key} is {found}; models here take {expected}.")
  activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
  vision_heads = None
  if "head_width" in vision:
    width = vision["width"] * (1 if isinstance(vision["layers"], int) else 32)
    vision_heads = width // vision["head_width"]
  return Settings(activation, vision_heads, text.get("heads"))
