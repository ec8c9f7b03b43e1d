"""What the arrays of a CLIP do not tell: the JSON files that are published beside them.

Activation, heads, norms, pooling, pixels and vocabulary change every number and no shape.  So all
that the files say is read, what no tower here has is refused, and sizes are compared with the
arrays: a description of another model gives no wrong numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rkd_jax.files.json_checks import read_json
from rkd_jax.files.untrusted.reading import quoted, shown
from rkd_jax.models.clip import preprocess
from rkd_jax.models.clip.tokenizer import END, START, VOCABULARY_SIZE, encode

Layout = Literal["openai", "open_clip", "hugging_face"]

# The widest tower of which all published ones have heads of 64 channels.
MAX_WIDTH_OF_USUAL_HEADS = 1024


class Settings(NamedTuple):
  """What the shapes do not tell, with None for what OpenAI's models have.

  That is quick_gelu, and a head for each 64 channels.  `stated` are sizes, by the names of
  `ClipConfig`, which the arrays must have.
  """

  activation: str | None = None
  vision_heads: int | None = None
  text_heads: int | None = None
  stated: Mapping[str, Any] = {}


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
  settings = parse(_object(path), path)
  if layout == "hugging_face":
    _check_neighbours(path)
  return settings


def _object(path: Path) -> dict[str, Any]:
  try:
    content = read_json(path)
  except RecursionError:
    raise ValueError(f"{path} nests its content too deeply; expected a JSON object.") from None
  if not isinstance(content, dict):
    raise ValueError(f"{path}: expected a JSON object.")
  return content


def _block(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
  block = content.get(key)
  if not isinstance(block, dict):
    raise ValueError(f"{path} has no {key!r}; expected the description of a CLIP with two towers.")
  return block


def _whole(value: Any, key: str, path: Path) -> int:
  if type(value) is not int or not 0 < value < 2**31:
    raise ValueError(f"{path}: {key!r} is {shown(value)}, expected a positive integer.")
  return value


def _expect(content: Mapping[str, Any], expected: Mapping[str, tuple], path: Path) -> None:
  """Refuses a value that is none of those that the towers here are built for, if it is given."""
  for key, values in expected.items():
    if key in content and not any(_same(content[key], value) for value in values):
      raise ValueError(
        f"{path}: {key} is {shown(content[key])}; models here have"
        f" {' or '.join(map(shown, values))}. Use another model."
      )


def _is_number(value: Any) -> bool:
  """Whether a value of JSON is a number, and none that arithmetic refuses."""
  return type(value) is float or (type(value) is int and abs(value) < 2**53)


def _same(found: Any, expected: Any) -> bool:
  if isinstance(expected, str | bool | None):
    return type(found) is type(expected) and found == expected
  return _is_number(found) and abs(found - expected) <= 1e-9 * abs(expected)


def _check_pixels(pixels: Any, names: tuple[str, str], path: Path) -> None:
  for key, expected in zip(names, (preprocess.MEAN, preprocess.STD)):
    found = pixels.get(key, expected) if isinstance(pixels, dict) else None
    numbers = isinstance(found, list | tuple) and all(map(_is_number, found))
    if not numbers or len(found) != 3 or not np.allclose(found, expected, atol=1e-4):
      raise ValueError(f"{path}: the pixel {key} is {shown(found)}; models here take {expected}.")


# Sizes of each tower, by their names there and here.
_HUGGING_FACE_SIZES = {
  "vision": {
    "hidden_size": "vision_width",
    "num_hidden_layers": "vision_layers",
    "patch_size": "vision_patch_size",
    "image_size": "image_resolution",
  },
  "text": {
    "hidden_size": "transformer_width",
    "num_hidden_layers": "transformer_layers",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
  },
}
# What `transformers` takes where a description leaves it out.
_HUGGING_FACE_HEADS = {"vision": 12, "text": 8}


def _hugging_face_settings(content: Mapping[str, Any], path: Path) -> Settings:
  _expect(content, {"model_type": ("clip",)}, path)
  vision, text = (_block(content, f"{tower}_config", path) for tower in ("vision", "text"))
  activations = {shown(tower.get("hidden_act", "quick_gelu")) for tower in (vision, text)}
  if len(activations) > 1:
    raise ValueError(
      f"{path}: the towers have the activations {sorted(activations)}, expected one."
    )
  for tower in (vision, text):
    _expect(tower, {"layer_norm_eps": (1e-5,)}, path)
  # A text is read at its end mark; 2 stands for the largest token, which that is.
  _expect(text, {"eos_token_id": (2, END)}, path)
  stated, heads = {}, {}
  for kind, tower in (("vision", vision), ("text", text)):
    sizes = {ours: tower[k] for k, ours in _HUGGING_FACE_SIZES[kind].items() if k in tower}
    stated |= {key: _whole(value, key, path) for key, value in sizes.items()}
    count = tower.get("num_attention_heads", _HUGGING_FACE_HEADS[kind])
    heads[kind] = _whole(count, "num_attention_heads", path)
  if "projection_dim" in content:
    stated["embed_dim"] = _whole(content["projection_dim"], "projection_dim", path)
  return Settings(activations.pop(), heads["vision"], heads["text"], stated)


def _check_neighbours(config: Path) -> None:
  """The pixels and the vocabulary of a model of Hugging Face, where their files are there."""
  path = config.with_name("preprocessor_config.json")
  if path.exists():
    content = _object(path)
    _check_pixels(content, ("image_mean", "image_std"), path)
    usual = {"resample": (3,), "do_normalize": (True,), "do_rescale": (True,)}
    _expect(content, usual | {"rescale_factor": (1 / 255,)}, path)
  path = config.with_name("vocab.json")
  if path.exists():
    content = _object(path)
    expected = {"<|startoftext|>": START, "<|endoftext|>": END}
    for word in ("a", "photo", "of", "the", "dog", "person"):
      expected[f"{word}</w>"] = encode(word)[0]
    if len(content) != VOCABULARY_SIZE or any(content.get(k) != v for k, v in expected.items()):
      raise ValueError(
        f"{path} is not CLIP's vocabulary of {VOCABULARY_SIZE} tokens: this model reads other"
        " tokens than those that texts become here. Use a model with CLIP's own vocabulary."
      )


_OPEN_CLIP_MODEL = {
  *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale"),
  *("cast_dtype", "output_dict"),
}
# With the sizes that they are; others hold what the towers here have anyway.
_OPEN_CLIP_TOWERS = {
  "vision": {
    "image_size": "image_resolution",
    "layers": "vision_layers",
    "width": "vision_width",
    "patch_size": "vision_patch_size",
    "head_width": None,
  },
  "text": {
    "context_length": "context_length",
    "vocab_size": "vocab_size",
    "width": "transformer_width",
    "layers": "transformer_layers",
    "heads": None,
  },
}
_OPEN_CLIP_USUAL = {"mlp_ratio": (4.0,), "pool_type": ("tok", "argmax")}


def _open_clip_settings(content: Mapping[str, Any], path: Path) -> Settings:
  model = _block(content, "model_cfg", path)
  vision, text = _block(model, "vision_cfg", path), _block(model, "text_cfg", path)
  stated = {}
  for known, block in (
    (_OPEN_CLIP_MODEL, model),
    (_OPEN_CLIP_TOWERS["vision"] | _OPEN_CLIP_USUAL, vision),
    (_OPEN_CLIP_TOWERS["text"] | _OPEN_CLIP_USUAL, text),
  ):
    for key, value in block.items():
      if value and key not in known:
        raise ValueError(
          f"{path}: {quoted(key)} is {quoted(value)}, which the towers here do not have; use a"
          " model of open_clip with plain ViT or ResNet towers."
        )
    _expect(block, _OPEN_CLIP_USUAL, path)
  for kind, tower in (("vision", vision), ("text", text)):
    for key, ours in _OPEN_CLIP_TOWERS[kind].items():
      if ours is not None and tower.get(key) is not None:
        stated[ours] = _size(tower[key], key, path)
  if "embed_dim" in model:
    stated["embed_dim"] = _whole(model["embed_dim"], "embed_dim", path)
  pixels = content.get("preprocess_cfg", {})
  _check_pixels(pixels, ("mean", "std"), path)
  _expect(pixels, {"interpolation": ("bicubic",), "resize_mode": ("shortest",)}, path)
  _expect(model, {"quick_gelu": (True, False)}, path)
  activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
  vision_heads = None
  if "head_width" in vision and "width" in vision and "layers" in vision:
    width = _whole(vision["width"], "width", path)
    width *= 32 if isinstance(stated["vision_layers"], tuple) else 1
    vision_heads = width // _whole(vision["head_width"], "head_width", path)
  return Settings(activation, vision_heads, _whole(text.get("heads", 8), "heads", path), stated)


def _size(value: Any, key: str, path: Path) -> Any:
  """An integer; of several they are the stages of a ResNet, or the sides of a square."""
  if not isinstance(value, list):
    return _whole(value, key, path)
  sizes = tuple(_whole(item, key, path) for item in value)
  return sizes[0] if key != "layers" and len(set(sizes)) == 1 else sizes
