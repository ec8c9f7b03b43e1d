"""Descriptions as they are published, with all their keys."""

import json

import numpy as np
import openai_clip
import pytest

from rkd_jax.models.clip import preprocess
from rkd_jax.models.clip.model import PRESETS
from rkd_jax.models.clip.tokenizer import END, START, _byte_pair_encoder
from rkd_jax.weights.clip import config_from_torch
from rkd_jax.weights.clip_settings import read_settings

TOWER = {"attention_dropout": 0.0, "dropout": 0.0, "layer_norm_eps": 1e-05, "num_hidden_layers": 12}
TEXT = {
  **TOWER,
  **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "hidden_act": "quick_gelu"},
  **{"hidden_size": 512, "intermediate_size": 2048, "max_position_embeddings": 77},
  **{"num_attention_heads": 8, "vocab_size": 49408, "model_type": "clip_text_model"},
}
VISION = {
  **TOWER,
  **{"hidden_act": "quick_gelu", "hidden_size": 768, "image_size": 224, "intermediate_size": 3072},
  **{"num_attention_heads": 12, "patch_size": 32, "model_type": "clip_vision_model"},
}
HUGGING_FACE = {
  **{"architectures": ["CLIPModel"], "initializer_factor": 1.0, "model_type": "clip"},
  **{"projection_dim": 512, "text_config": TEXT, "vision_config": VISION},
}
PIXELS = {
  **{"crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True},
  **{"image_mean": preprocess.MEAN, "image_std": preprocess.STD, "resample": 3, "size": 224},
}
OPEN_CLIP_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
OPEN_CLIP_PIXELS = {
  **{"mean": preprocess.MEAN, "std": preprocess.STD, "interpolation": "bicubic"},
  **{"resize_mode": "shortest"},
}


def shapes(preset):
  found = openai_clip.shapes(PRESETS[preset])
  return {name: np.broadcast_to(np.float32(0), shape) for name, shape in found.items()}


def test_a_model_of_hugging_face_with_all_its_files(tmp_path):
  vocabulary = _byte_pair_encoder().get_vocab() | {"<|startoftext|>": START, "<|endoftext|>": END}
  for name, content in (
    ("config.json", HUGGING_FACE),
    ("preprocessor_config.json", PIXELS),
    ("vocab.json", vocabulary),
  ):
    (tmp_path / name).write_text(json.dumps(content))
  settings = read_settings(tmp_path / "model.safetensors", "hugging_face")
  config = config_from_torch(shapes("ViT-B/32"), settings)
  assert (config.activation, config.vision_heads, config.transformer_heads) == ("quick_gelu", 12, 8)
  with pytest.raises(ValueError, match="vision_patch_size is 32 by its description, and 16"):
    config_from_torch(shapes("ViT-B/16"), settings)


@pytest.mark.parametrize(
  "preset, vision, heads",
  [
    ("ViT-B/32", {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}, None),
    (
      "RN50",
      {
        **{"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
        "head_width": 64,
      },
      32,
    ),
  ],
)
def test_models_of_open_clip(tmp_path, preset, vision, heads):
  state = shapes(preset)
  model = {"embed_dim": state["text_projection"].shape[1], "vision_cfg": vision}
  content = {"model_cfg": model | {"text_cfg": OPEN_CLIP_TEXT}, "preprocess_cfg": OPEN_CLIP_PIXELS}
  (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
  config = config_from_torch(state, read_settings(tmp_path / "m.safetensors", "open_clip"))
  assert (config.activation, config.vision_heads, config.transformer_heads) == ("gelu", heads, 8)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"interpolation": "bilinear"}, "interpolation is bilinear; models here have bicubic"),
    ({"resize_mode": "squash"}, "resize_mode is squash"),
    ({"mean": [10**400, 0, 0]}, "the pixel mean is"),
  ],
)
def test_other_pixels_are_refused(tmp_path, changes, message):
  vision = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
  model = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": OPEN_CLIP_TEXT}
  content = {"model_cfg": model, "preprocess_cfg": OPEN_CLIP_PIXELS | changes}
  path = tmp_path / "open_clip_config.json"
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    read_settings(tmp_path / "m.safetensors", "open_clip")
