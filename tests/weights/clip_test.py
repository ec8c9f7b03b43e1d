"""The published models' behaviour, from weights that a formula regenerates."""

import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from rkd_jax.models.clip.model import Clip, ClipConfig
from rkd_jax.weights.clip import params_from_torch

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = ("clip_rn_tiny", "clip_vit_tiny16")


def standard_normal(key: str, shape) -> np.ndarray:
  state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
  return np.asarray(state.standard_normal(shape), np.float32)


@pytest.fixture(scope="module", params=MODELS)
def golden(request):
  """Name, config, original state dict and expected arrays of one tiny model."""
  name = request.param
  manifest = json.loads((GOLDEN / f"{name}.manifest.json").read_text())
  state = {
    p["name"]: np.array(p["constant"])
    if "constant" in p
    else np.float32(p["offset"]) + np.float32(p["scale"]) * standard_normal(p["name"], p["shape"])
    for p in manifest["params"]
  }
  arrays = np.load(GOLDEN / "clip_models.npz")
  expected = {k.removeprefix(f"{name}/"): arrays[k] for k in arrays if k.startswith(name)}
  expected["tokens"] = arrays["text_tokens"]
  return name, ClipConfig.from_dict(manifest["config"]), state, expected


def assert_near(actual, expected, tolerance=1e-5):
  error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
  assert error < tolerance, f"off by {error:.2e} of the largest value"


def test_towers_equal_the_original(golden):
  name, config, state, expected = golden
  images = standard_normal(f"input:{name}/image", (4, 3, 64, 64)).transpose(0, 2, 3, 1)

  @jax.jit
  def apply(variables):
    return Clip(config).apply(
      variables, images, expected["tokens"], capture_intermediates=True, mutable=["intermediates"]
    )

  (image, text, scale), variables = apply(params_from_torch(state, config))
  assert_near(image, expected["image_embedding"])
  assert_near(text, expected["text_embedding"])
  unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text)]
  # The original applies its scale as it is; ours stops at 100, and this model's lies above.
  assert float(scale) == pytest.approx(100)
  assert_near(np.exp(state["logit_scale"]) * unit[0] @ unit[1].T, expected["logits_per_image"])

  visual = variables["intermediates"]["visual"]
  if name == "clip_vit_tiny16":
    assert_near(visual["block_0"]["attn"]["__call__"][0][:2], expected["visual.block0.attn"])
    assert_near(visual["block_0"]["__call__"][0][:2], expected["visual.block0"])
  else:
    layer2 = visual["layer2_1"]["__call__"][0][:2]
    assert_near(layer2.transpose(0, 3, 1, 2), expected["visual.layer2"])
    layer4 = visual["layer4_1"]["__call__"][0]
    assert_near(layer4.transpose(0, 3, 1, 2), expected["visual.layer4"])


def test_text_needs_no_more_context_than_its_longest_row(golden):
  _, config, state, expected = golden
  variables = params_from_torch(state, config)
  short = expected["tokens"][:5]
  length = int(short.argmax(-1).max()) + 1
  encode = jax.jit(lambda v: Clip(config).apply(v, short[:, :length], method="encode_text"))
  text = encode(variables)
  assert_near(text, expected["text_embedding"][:5])


def test_half_precision_weights_become_float32(golden):
  _, config, state, _ = golden
  halves = {name: value.astype(np.float16) for name, value in state.items()}
  leaves = jax.tree.leaves(params_from_torch(halves, config))
  assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_rounding_to_half_is_that_of_the_original_loader(golden):
  name, config, state, expected = golden
  images = standard_normal(f"input:{name}/image", (4, 3, 64, 64)).transpose(0, 2, 3, 1)
  variables = params_from_torch(state, config, half=True)
  image, text, _ = jax.jit(lambda v: Clip(config).apply(v, images, expected["tokens"]))(variables)
  with np.load(GOLDEN / "clip_published.npz") as rounded:
    assert_near(image, rounded[f"{name}/image_embedding_fp16_weights"])
    assert_near(text, rounded[f"{name}/text_embedding_fp16_weights"])
  assert np.abs(image - expected["image_embedding"]).max() > 1e-5


def test_every_misfit_is_named(golden):
  _, config, state, _ = golden
  wrong = dict(state, surplus=np.zeros(1), text_projection=np.zeros((2, 2)), input_resolution=224)
  del wrong["ln_final.bias"]
  with pytest.raises(ValueError) as error:
    params_from_torch(wrong, config)
  message = str(error.value)
  assert "missing ln_final.bias" in message
  assert "unused surplus (1,)" in message
  assert "text_projection has shape (2, 2), the network needs (" in message
  assert "input_resolution" not in message
