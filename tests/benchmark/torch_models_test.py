"""PyTorch's side computes what ours does (where torch and torchvision are installed)."""

import jax
import numpy as np
import pytest

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.measure import Budget
from rkd_jax.configs.lvis import base as lvis
from rkd_jax.models.backbones.resnet import ResNet
from rkd_jax.models.clip.model import Clip, ClipConfig
from rkd_jax.models.clip.preprocess import normalize

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
models = pytest.importorskip("rkd_jax.benchmark.torch_models")


def _kernel(x):
  """A convolution's or a product's, in torch's order."""
  return torch.from_numpy(np.array(x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T))


def _copy(module, own):
  """Fills convolutions, products and norms from our parameters in the order of their calls."""
  layers = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
  for layer, params in zip(layers, own, strict=True):
    if isinstance(layer, torch.nn.Conv2d):
      layer.weight.data = _kernel(params["kernel"])
    else:
      for name, target in (
        ("scale", layer.weight),
        ("bias", layer.bias),
        ("mean", layer.running_mean),
        ("var", layer.running_var),
      ):
        target.data = torch.from_numpy(np.array(params[name]))


def test_the_trunk_is_ours():
  """Its last map, from the same parameters."""
  model = ResNet((3, 4, 6, 3))
  images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
  abstract = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  params = synthetic.fill(abstract, np.random.default_rng(1))
  expected = jax.jit(model.apply)({"params": params}, images)[-1]

  own = [params["stem"], params["stem_norm"]]
  for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
    for block in range(blocks):
      layers = params[f"res{stage}"][f"block{block}"]
      for name in ("conv1", "conv2", "conv3", "shortcut"):
        own += [layers[name], layers[f"{name}_norm"]] if name in layers else []
  trunk = models.trunk()
  _copy(trunk, own)
  with torch.no_grad():
    found = trunk(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_the_image_tower_is_ours():
  """Embeddings of uint8 images, from the same parameters."""
  config = ClipConfig(
    embed_dim=16, image_resolution=16, vision_layers=2, vision_width=64, vision_patch_size=8
  )
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  model = Clip(config)
  encode = lambda v, x: model.apply(v, normalize(x), method=Clip.encode_image)  # noqa: E731
  abstract = jax.eval_shape(
    lambda key: model.init(key, normalize(images), method=Clip.encode_image), jax.random.key(0)
  )
  rng = np.random.default_rng(1)
  variables = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype("f"), abstract)
  own = variables["params"]["visual"]

  tower = models.ClipVisionTransformer(config)
  linear = lambda p, name: {f"{name}.weight": p["kernel"].T, f"{name}.bias": p["bias"]}  # noqa: E731
  norm = lambda p, name: {f"{name}.weight": p["scale"], f"{name}.bias": p["bias"]}  # noqa: E731
  state = {
    "conv1.weight": own["conv1"]["kernel"].transpose(3, 2, 0, 1),
    "proj.weight": own["proj"].T,
    **{name: own[name] for name in ("class_embedding", "positional_embedding")},
    **norm(own["ln_pre"], "ln_pre"),
    **norm(own["ln_post"], "ln_post"),
  }
  for i in range(2):
    block = own[f"block_{i}"]
    state |= norm(block["ln_1"], f"blocks.{i}.norm1") | norm(block["ln_2"], f"blocks.{i}.norm2")
    joint = block["attn"]["in_proj"]
    state[f"blocks.{i}.self_attn.in_proj_weight"] = joint["kernel"].T
    state[f"blocks.{i}.self_attn.in_proj_bias"] = joint["bias"]
    state |= linear(block["attn"]["out_proj"], f"blocks.{i}.self_attn.out_proj")
    state |= linear(block["mlp"]["c_fc"], f"blocks.{i}.linear1")
    state |= linear(block["mlp"]["c_proj"], f"blocks.{i}.linear2")
  tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
  missing, unexpected = tower.load_state_dict(tensors, strict=False)
  assert set(missing) == {"mean", "std"} and not unexpected
  with torch.no_grad():
    found = tower(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
  np.testing.assert_allclose(found, encode(variables, images), rtol=1e-4, atol=1e-4)


def test_a_detector_is_timed_in_inference_and_training():
  config = lvis.get_config()
  config.model.rpn.train.update(pre_nms=20, post_nms=10)
  config.model.rpn.test.update(pre_nms=20, post_nms=10)
  pictures = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
  boxes = np.array([[[5, 5, 40, 40]], [[10, 20, 60, 50]]], np.float32)
  side = models.TorchBenchmark("cpu", "float32", Budget(1, 0.0))
  name, inference, step = side.detector(config, pictures[:1], pictures, boxes)
  assert name == "maskrcnn_resnet50_fpn"
  assert inference["seconds"] > 0 and step["seconds"] > 0 and step["peak_bytes"] > 0
