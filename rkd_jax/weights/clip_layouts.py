"""How other libraries name and describe the weights of a CLIP: Hugging Face and open_clip.

Their names become OpenAI's, which `params` reads.  What shapes do not tell (activation, heads)
stands in a JSON file that both publish beside the weights.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rkd_jax.files.json_checks import read_json
from rkd_jax.models.clip import preprocess

Layout = Literal["openai", "open_clip", "hugging_face"]

_HUGGING_FACE_RENAMES = (
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


class Settings(NamedTuple):
  """What the file beside the weights says; None leaves it to the shapes."""

  activation: str | None = None
  vision_heads: int | None = None
  text_heads: int | None = None


def detect(state: Mapping[str, np.ndarray]) -> Layout:
  """Whose names these are; open_clip's without a wrapping are OpenAI's."""
  if "text_model.embeddings.token_embedding.weight" in state:
    return "hugging_face"
  if any(name.startswith(("module.", "text.")) for name in state):
    return "open_clip"
  return "openai"


def to_openai(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The state dict under OpenAI's names and in its layout; unknown entries keep theirs."""
  if detect(state) == "hugging_face":
    return _from_hugging_face(state)
  names = [name.removeprefix("module.").removeprefix("text.") for name in state]
  # A buffer of some open_clip checkpoints: the causal mask, which is no weight.
  return {name: value for name, value in zip(names, state.values()) if name != "attn_mask"}


def _from_hugging_face(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  renamed = {}
  for name, value in state.items():
    for pattern, replacement in _HUGGING_FACE_RENAMES:
      name = re.sub(pattern, replacement, name)
    if name.removeprefix("visual.") == "position_ids":  # a constant buffer of older releases
      continue
    renamed[name] = value.T if name in ("text_projection", "visual.proj") else value
  for name in [name for name in renamed if ".attn.q_proj." in name]:
    parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
    if all(part in renamed for part in parts):
      stacked = np.concatenate([renamed.pop(part) for part in parts])
      renamed[name.replace("q_proj.", "in_proj_")] = stacked
  return renamed


def read_settings(weights: str | Path, layout: Layout) -> Settings | None:
  """From config.json (Hugging Face) or open_clip_config.json (open_clip) beside the weights.

  Returns:
    None where there is no such file.

  Raises:
    ValueError: it is malformed, or describes a model that is not built here.
  """
  names = {"hugging_face": "config.json"}
  path = Path(weights).with_name(names.get(layout, "open_clip_config.json"))
  if not path.exists():
    return None
  content = read_json(path)
  if not isinstance(content, dict):
    raise ValueError(f"{path}: expected a JSON object.")
  parse = _hugging_face_settings if layout == "hugging_face" else _open_clip_settings
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
