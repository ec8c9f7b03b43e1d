"""Published weights in every container and under every library's names."""

import json

import jax
import numpy as np
import openai_clip
import pytest
import safetensors.numpy
import tiny_clip
from openai_clip import Weights, standard_normal

from rkd_jax.files.torch_writer import write_pth
from rkd_jax.files.untrusted.torch_reader import ReadError, read_checkpoint
from rkd_jax.frozen import clip as frozen
from rkd_jax.frozen.clip import FrozenClip, RegionEncoder, load_clip
from rkd_jax.models.clip.model import PRESETS, Clip, ClipConfig
from rkd_jax.models.clip.preprocess import normalize
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.runs.checkpoint import CheckpointError
from rkd_jax.weights.clip import Settings, config_from_torch

GOLDEN = np.load(openai_clip.GOLDEN)
ARCHIVE = openai_clip.GOLDEN.with_name("clip_tiny_jit_fp16.pt")


def assert_near(actual, expected, tolerance=1e-5):
  error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
  assert error < tolerance, f"off by {error:.2e} of the largest value"


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_follow_from_the_shapes(name):
  config = PRESETS[name]
  shapes = openai_clip.shapes(config)
  # Without memory: all elements are the same one.
  state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
  assert config_from_torch(state, Settings()) == config
  size = config.image_resolution
  variables = jax.eval_shape(
    Clip(config).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, size, size, 3), np.float32),
    jax.ShapeDtypeStruct((1, config.context_length), np.int32),
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(variables))
  assert count == sum(value.size for value in state.values())


def embed(clip):
  images = standard_normal("input:jit/image", (2, 3, 32, 32)).transpose(0, 2, 3, 1)
  image, text, _ = clip.model.apply(clip.variables, images, GOLDEN["tiny_jit/tokens"])
  return np.asarray(image), np.asarray(text)


def assert_is_the_tiny_model(clip):
  assert clip.model.config == Weights("tiny_jit").config
  image, text = embed(clip)
  assert_near(image, GOLDEN["tiny_jit/image_embedding"])
  assert_near(text, GOLDEN["tiny_jit/text_embedding"])


@pytest.fixture(scope="module")
def tiny():
  """A model of one layer per tower in half precision, by OpenAI's names."""
  return dict(Weights("tiny_jit"))


def test_torchscript_archive():
  state = read_checkpoint(ARCHIVE)
  expected = Weights("tiny_jit")
  integers = {"input_resolution": 32, "context_length": 77, "vocab_size": 64}
  assert state.keys() == expected.keys() | integers.keys()
  for name, value in expected.items():
    assert state[name].dtype == value.dtype
    np.testing.assert_array_equal(state[name], value, err_msg=name)
  assert {name: state[name] for name in integers} == integers
  assert_is_the_tiny_model(load_clip(ARCHIVE))


def write_safetensors(path, state):
  arrays = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in state.items()}
  safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})


WRITERS = {
  "m.pt": write_pth,
  "m.npz": lambda path, state: np.savez(path, **state),
  "m.safetensors": write_safetensors,
}


@pytest.mark.parametrize("name", WRITERS)
def test_plain_state_dicts(tmp_path, tiny, name):
  WRITERS[name](tmp_path / name, tiny)
  assert_is_the_tiny_model(load_clip(tmp_path / name, "quick_gelu"))


def hugging_face(state):
  """The same model as CLIPModel of `transformers` names it."""
  renamed = {
    "logit_scale": state["logit_scale"],
    "text_projection.weight": state["text_projection"].T,
    "visual_projection.weight": state["visual.proj"].T,
    "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
    "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
    "text_model.embeddings.position_ids": np.arange(77)[None],
    "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
    "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
    "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    "vision_model.embeddings.position_ids": np.arange(5)[None],
  }
  for kind in ("weight", "bias"):
    renamed[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    renamed[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
    renamed[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
    for theirs, ours in (("text_model", ""), ("vision_model", "visual.")):
      layer, block = f"{theirs}.encoder.layers.0", f"{ours}transformer.resblocks.0"
      stacked = state[f"{block}.attn.in_proj_{kind}"]
      for part, rows in zip("qkv", np.split(stacked, 3)):
        renamed[f"{layer}.self_attn.{part}_proj.{kind}"] = rows
      for their_name, our_name in (
        ("self_attn.out_proj", "attn.out_proj"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
      ):
        renamed[f"{layer}.{their_name}.{kind}"] = state[f"{block}.{our_name}.{kind}"]
  return renamed


@pytest.mark.parametrize("name", WRITERS)
def test_hugging_face(tmp_path, tiny, name):
  WRITERS[name](tmp_path / name, hugging_face(tiny))
  assert_is_the_tiny_model(load_clip(tmp_path / name, "quick_gelu"))


def test_hugging_face_config_tells_activation_and_heads(tmp_path, tiny):
  path = tmp_path / "model.safetensors"
  write_safetensors(path, hugging_face(tiny))
  text = {"hidden_act": "gelu", "num_attention_heads": 2}
  vision = {"hidden_act": "gelu", "num_attention_heads": 4}
  config_file = tmp_path / "config.json"
  config_file.write_text(json.dumps({"text_config": text, "vision_config": vision}))
  config = load_clip(path).model.config
  assert (config.activation, config.transformer_heads, config.vision_heads) == ("gelu", 2, 4)
  for change, message in (
    ({"hidden_act": "quick_gelu"}, r"config\.json: the towers have the activations"),
    ({"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
  ):
    config_file.write_text(json.dumps({"text_config": text | change, "vision_config": vision}))
    with pytest.raises(ValueError, match=message):
      load_clip(path)


def open_clip_config(**changes):
  model = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1},
  }
  return {"model_cfg": model | changes}


@pytest.mark.parametrize("prefix, text_prefix", [("", ""), ("module.", ""), ("", "text.")])
def test_open_clip(tmp_path, tiny, prefix, text_prefix):
  """Prefixes of its training checkpoints and of its models with a custom text tower."""

  def rename(name):
    shared = name.startswith("visual.") or name == "logit_scale"
    return f"{prefix}{'' if shared else text_prefix}{name}"

  path = tmp_path / "open_clip_model.safetensors"
  write_safetensors(path, {rename(name): value for name, value in tiny.items()})
  assert_is_the_tiny_model(load_clip(path, "quick_gelu"))

  (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config()))
  config = load_clip(path).model.config
  assert (config.activation, config.vision_heads, config.transformer_heads) == ("gelu", 2, 2)
  assert load_clip(path, activation="quick_gelu").model.config.activation == "quick_gelu"


@pytest.mark.parametrize(
  "content, message",
  [
    (open_clip_config(vision_cfg={"timm_model_name": "x"}), "'timm_model_name' is 'x', which"),
    (open_clip_config(text_cfg={"no_causal_mask": True}), "'no_causal_mask' is True"),
    (open_clip_config() | {"preprocess_cfg": {"std": [0.5, 0.5, 0.5]}}, "the pixel std is"),
    ({"model": {}}, "has no 'model_cfg'"),
  ],
)
def test_models_of_open_clip_that_are_not_built_here(tmp_path, tiny, content, message):
  write_pth(tmp_path / "m.pt", tiny)
  (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match=rf"open_clip_config\.json.*{message}"):
    load_clip(tmp_path / "m.pt")


HUGGING_FACE = {
  "model_type": "clip",
  "text_config": {"hidden_act": "quick_gelu", "num_attention_heads": 1, "vocab_size": 64},
  "vision_config": {"num_attention_heads": 1, "image_size": 32, "hidden_size": 64},
  "projection_dim": 16,
}


def test_a_folder_of_hugging_face_in_two_parts(tmp_path, tiny):
  (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE))
  state = hugging_face(tiny)
  weight_map = {}
  for number in range(2):
    file = f"model-0000{number + 1}-of-00002.safetensors"
    part = {name: state[name] for name in sorted(state)[number::2]}
    write_safetensors(tmp_path / file, part)
    weight_map |= dict.fromkeys(part, file)
  index = {"weight_map": weight_map}
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
  image, text = embed(load_clip(tmp_path))
  assert_near(image, GOLDEN["tiny_jit/image_embedding"])
  assert_near(text, GOLDEN["tiny_jit/text_embedding"])


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"model_type": "siglip"}, "model_type is 'siglip'; models here have 'clip'|have clip"),
    ({"projection_dim": 512}, "embed_dim is 512 by its description, and 16 by the shapes"),
    ({"text_config": {"vocab_size": 49408, "num_attention_heads": 1}}, "vocab_size is 49408"),
    ({"text_config": {"eos_token_id": 7}}, "eos_token_id is 7"),
    ({"vision_config": {"num_attention_heads": 0}}, "num_attention_heads' is 0"),
    ({"vision_config": {"hidden_act": "gelu"}}, "the towers have the activations"),
  ],
)
def test_a_config_of_another_model_is_refused(tmp_path, tiny, changes, message):
  write_safetensors(tmp_path / "model.safetensors", hugging_face(tiny))
  (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE | changes))
  with pytest.raises(ValueError, match=message):
    load_clip(tmp_path)


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, "the pixel image_mean is"),
    ("preprocessor_config.json", {"resample": 2}, "resample is 2; models here have 3"),
    ("vocab.json", {"<s>": 0}, "is not CLIP's vocabulary"),
  ],
)
def test_other_pixels_and_words_are_refused(tmp_path, tiny, name, content, message):
  write_safetensors(tmp_path / "model.safetensors", hugging_face(tiny))
  (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE))
  (tmp_path / name).write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    load_clip(tmp_path)


@pytest.mark.parametrize("layout", ["openai", "hugging_face"])
def test_weights_without_their_config_ask_for_the_activation(tmp_path, tiny, layout):
  state = tiny if layout == "openai" else hugging_face(tiny)
  write_safetensors(tmp_path / "m.safetensors", state)
  with pytest.raises(ValueError, match=r"m\.safetensors: there is no .*config\.json.*--activ"):
    load_clip(tmp_path / "m.safetensors")


def test_a_config_beside_an_archive_of_openai_is_of_another_model(tmp_path):
  (tmp_path / "ViT.pt").write_bytes(ARCHIVE.read_bytes())
  (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config()))
  assert_is_the_tiny_model(load_clip(tmp_path / "ViT.pt"))


def test_heads_of_wide_towers_are_not_guessed(tmp_path, tiny):
  wide = {**tiny, "visual.conv1.weight": np.zeros((1280, 3, 16, 16), np.float32)}
  write_pth(tmp_path / "m.pt", wide)
  with pytest.raises(ValueError, match="1280 wide may have any number of heads"):
    load_clip(tmp_path / "m.pt", "gelu")


def test_weights_of_gelu_are_not_rounded(tmp_path, tiny):
  """OpenAI's are of quick_gelu, and only its loader rounds."""
  exact = {name: value.astype(np.float32) * np.float32(1 + 2**-13) for name, value in tiny.items()}
  write_pth(tmp_path / "m.pt", exact)
  params = load_clip(tmp_path / "m.pt", "gelu").variables["params"]
  kernel = np.asarray(params["visual"]["conv1"]["kernel"]).transpose(3, 2, 0, 1)
  np.testing.assert_array_equal(kernel, exact["visual.conv1.weight"])


def test_names_without_end_are_refused(tmp_path, tiny):
  layers = {f"transformer.resblocks.{i}.x": np.zeros(1, np.float32) for i in range(500)}
  write_pth(tmp_path / "m.pt", tiny | layers)
  with pytest.raises(ValueError, match=r"m\.pt: 500 layers are named"):
    load_clip(tmp_path / "m.pt", "gelu")


def test_the_activation_changes_the_result(tmp_path, tiny):
  write_pth(tmp_path / "m.pt", tiny)
  image, text = embed(load_clip(tmp_path / "m.pt", activation="gelu"))
  assert np.abs(image - GOLDEN["tiny_jit/image_embedding"]).max() > 1e-3
  assert np.abs(text - GOLDEN["tiny_jit/text_embedding"]).max() > 1e-3
  with pytest.raises(ValueError, match="activation is 'relu'; use one of quick_gelu, gelu"):
    load_clip(tmp_path / "m.pt", activation="relu")


def test_float32_weights_are_rounded_as_by_the_original(tmp_path, tiny):
  """Of OpenAI's torch files; what its own conversion leaves in float32 is left here, too."""
  exact = {name: value.astype(np.float32) for name, value in tiny.items()}
  for name, value in exact.items():
    exact[name] = value * np.float32(1 + 2**-13)
  for writer, rounds in (("m.pt", True), ("m.npz", False)):
    WRITERS[writer](tmp_path / writer, exact)
    params = load_clip(tmp_path / writer, "quick_gelu").variables["params"]
    kernel = np.asarray(params["visual"]["conv1"]["kernel"]).transpose(3, 2, 0, 1)
    weight = exact["visual.conv1.weight"]
    expected = weight.astype(np.float16) if rounds else weight
    np.testing.assert_array_equal(kernel, expected.astype(np.float32))
    np.testing.assert_array_equal(
      params["text"]["token_embedding"]["embedding"], exact["token_embedding.weight"]
    )


def test_misfits_are_listed_with_the_file(tmp_path, tiny):
  bias = "visual.transformer.resblocks.0.ln_1.bias"
  wrong = {name: value for name, value in tiny.items() if name != bias}
  write_pth(tmp_path / "m.pt", wrong | {"surplus": np.zeros(1)})
  with pytest.raises(ValueError) as error:
    load_clip(tmp_path / "m.pt", "quick_gelu")
  for part in ("m.pt: ", f"missing {bias}", "unused surplus"):
    assert part in str(error.value)


def test_other_files_and_folders_are_named(tmp_path):
  write_pth(tmp_path / "m.pt", {"weight": np.zeros(3, np.float32)})
  with pytest.raises(ValueError, match=r"m\.pt: this is not the state dict of a CLIP"):
    load_clip(tmp_path / "m.pt")
  (tmp_path / "text.pt").write_text("no weights")
  with pytest.raises(ReadError, match=r"text\.pt"):
    load_clip(tmp_path / "text.pt")
  with pytest.raises(CheckpointError, match="nothing has no config"):
    load_clip(tmp_path / "nothing")
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(CheckpointError, match="give the file of weights"):
    load_clip(tmp_path)


def test_a_run_of_this_project(tmp_path):
  folder = tiny_clip.write_run(tmp_path)
  clip = load_clip(folder)
  assert clip.embed_texts(["red cat", "dog"]).shape == (2, 8)
  with pytest.raises(ValueError, match="is no file: activation"):
    load_clip(folder, activation="gelu")


def test_a_model_with_another_vocabulary_embeds_no_text():
  with pytest.raises(ValueError, match="tokenizer has 49408 tokens, the model 64"):
    load_clip(ARCHIVE).embed_texts(["dog"])


def _tiny():
  """A model with random variables."""
  model = Clip(
    ClipConfig(
      embed_dim=8,
      image_resolution=16,
      vision_layers=1,
      vision_width=16,
      vision_heads=2,
      vision_patch_size=8,
      context_length=4,
      vocab_size=8,
      transformer_width=16,
      transformer_heads=2,
      transformer_layers=1,
    )
  )
  images, tokens = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 4), np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images, tokens)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32), shapes)
  return FrozenClip(model, variables, Tokenizer(4))


CROPS = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)


def test_encoder_pads_the_last_batch_and_compiles_once(monkeypatch):
  clip = _tiny()
  images = np.asarray(normalize(CROPS))
  expected = jax.jit(lambda v: clip.model.apply(v, images, method="encode_image"))(clip.variables)
  traced = []
  monkeypatch.setattr(frozen, "normalize", lambda x: traced.append(x.shape) or normalize(x))
  encoder = RegionEncoder(clip, batch_size=3)
  first, embeddings = encoder.embed(CROPS[:2]), encoder.embed(CROPS)
  assert embeddings.dtype == np.float32
  np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(first, embeddings[:2], rtol=1e-5, atol=1e-6)
  assert traced == [(3, 16, 16, 3)]
  assert encoder.embed(CROPS[:0]).shape == (0, 8)


def test_a_batch_is_split_over_devices():
  """Three crops per batch become four, one for each device."""
  clip = _tiny()
  expected = RegionEncoder(clip, batch_size=3).embed(CROPS)
  encoder = RegionEncoder(clip, 3, jax.devices()[:4])
  np.testing.assert_allclose(encoder.embed(CROPS), expected, rtol=1e-5, atol=1e-6)
