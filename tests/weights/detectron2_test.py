import re

import golden_models
import jax
import numpy as np
import pytest
from flax import traverse_util

from rkd_jax.configs.coco import rkd_ils_weight_transfer as coco
from rkd_jax.configs.lvis import rkd_ils_weight_transfer as lvis
from rkd_jax.models.detector.rcnn import abstract_params
from rkd_jax.weights.detectron2 import canonical, channels_of, entries, from_params, to_params
from rkd_jax.weights.rename import WeightsError


def _small(config):
  m = config.model
  m.backbone.update(width=4, stem_width=4)
  m.box_head.update(width=12)
  m.classifier.update(embedding_dim=5, bias=-4.6, weight_transfer=(3, 7))
  return m


def _small_c4():
  config = coco.get_config()
  m = _small(config)
  m.backbone.stage_blocks = (1, 1, 2)
  m.rpn.channels = 6
  m.roi.resolution = 4
  m.box_head.layers = 1
  return config


def _small_fpn():
  config = lvis.get_config()
  m = _small(config)
  m.backbone.stage_blocks = (1, 1, 1, 1)
  m.fpn.channels = m.rpn.channels = m.mask_head.channels = 8
  m.roi.resolution = 3
  return config


def _fill(expected, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.random(x.shape, np.float32), expected)


def _equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.shape == y.shape and x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def c4():
  return abstract_params(_small_c4())


@pytest.fixture(scope="module")
def fpn():
  return abstract_params(_small_fpn())


@pytest.fixture(params=["c4", "fpn"])
def expected(request):
  return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name, config", [("coco_wt", coco), ("lvis_wt", lvis)])
def test_published_state_dicts_fit_name_by_name_and_come_back_bit_exactly(name, config):
  expected = abstract_params(config.get_config())
  rng = np.random.default_rng(0)
  shapes = {entry["name"]: entry["shape"] for entry in golden_models.manifest(name)}
  state = {k: rng.random(shape, np.float32) for k, shape in shapes.items()}
  params = to_params(state, expected)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), expected)
  assert jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), params) == shapes
  back = from_params(params)
  derived = {"cls_score.zs_weight", "freq_weight"}
  assert state.keys() - back.keys() == {f"roi_heads.box_predictor.{n}" for n in derived}
  assert all(
    state[n].tobytes() == v.tobytes() and state[n].shape == v.shape for n, v in back.items()
  )


def test_params_come_back_bit_exactly(expected):
  params = _fill(expected)
  _equal(to_params(from_params(params), expected), params)


def test_each_name_is_used_once(expected):
  found = entries(expected)
  assert (
    len({entry.name for entry in found.values()}) == len(found) == len(jax.tree.leaves(expected))
  )


def test_names_of_one_c4_network(c4):
  found = entries(c4)
  prefix = "roi_heads.box_predictor.cls_score"
  for path, name in {
    "backbone/stem_norm/var": "backbone.stem.conv1.norm.running_var",
    "backbone/res4/block1/conv3_norm/scale": "backbone.res4.1.conv3.norm.weight",
    "box_head/stage/block0/shortcut/kernel": "roi_heads.res5.0.shortcut.weight",
    "rpn/deltas/bias": "proposal_generator.rpn_head.anchor_deltas.bias",
    "box_predictor/fc2/kernel": "roi_heads.box_predictor.bbox_pred.2.weight",
    "classifier/projection/kernel": f"{prefix}.linear.weight",
    "classifier/transfer/fc4/bias": f"{prefix}.fc4.bias",
    "classifier/bias": f"{prefix}.cls_bias",
  }.items():
    assert found[path].name == name


def test_the_first_convolution_changes_from_bgr_to_rgb(c4):
  params = _fill(c4)
  kernel = params["backbone"]["stem"]["kernel"]
  weight = from_params(params)["backbone.stem.conv1.weight"]
  rgb = np.random.default_rng(1).random((1, 9, 9, 3), np.float32)
  bgr = rgb[..., ::-1].transpose(0, 3, 1, 2)
  ours = jax.lax.conv_general_dilated(
    rgb, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  theirs = jax.lax.conv_general_dilated(bgr, weight, (2, 2), "SAME")
  np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), rtol=1e-5)


def test_the_first_dense_layer_reads_the_same_map(fpn):
  params = _fill(fpn)
  weight = from_params(params)["roi_heads.box_head.fc1.weight"]
  pooled = np.random.default_rng(1).random((3, 3, 8), np.float32)
  ours = pooled.reshape(-1) @ params["box_head"]["fc1"]["kernel"]
  np.testing.assert_allclose(ours, weight @ pooled.transpose(2, 0, 1).reshape(-1), rtol=1e-5)


def test_the_transposed_convolution_is_not_flipped(fpn):
  """torch: out[o, 2i+a, 2j+b] = sum over c of x[c, i, j] weight[c, o, a, b]."""
  params = _fill(fpn)
  weight = from_params(params)["roi_heads.mask_head.deconv.weight"]
  kernel = params["mask_head"]["deconv"]["kernel"]
  x = np.random.default_rng(1).random(8, np.float32)
  for a in range(2):
    for b in range(2):
      theirs = sum(x[c] * weight[c, :, a, b] for c in range(8))
      np.testing.assert_allclose(x @ kernel[a, b], theirs, rtol=1e-5)


def test_what_is_derived_or_counted_is_not_needed(c4):
  params = _fill(c4)
  state = from_params(params) | {
    "pixel_mean": np.zeros((3, 1, 1)),
    "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((15, 4)),
    "roi_heads.box_predictor.cls_score.zs_weight": np.zeros((5, 81)),
    "roi_heads.box_predictor.freq_weight": np.zeros(80),
    "backbone.stem.conv1.norm.num_batches_tracked": np.int64(3),
  }
  _equal(to_params(state, c4), params)


def test_half_precision_is_widened(c4):
  params = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), _fill(c4))
  state = {k: v.astype(np.float16) for k, v in from_params(params).items()}
  _equal(to_params(state, c4), params)


def test_unused_and_missing_names_are_all_listed(c4):
  state = from_params(_fill(c4))
  del state["roi_heads.box_predictor.cls_score.fc1.bias"]
  del state["backbone.res2.0.conv1.weight"]
  state["roi_heads.mask_head.deconv.bias"] = np.ones(3)
  with pytest.raises(WeightsError) as error:
    to_params(state, c4)
  assert str(error.value).splitlines()[1:] == [
    "  missing backbone.res2.0.conv1.weight (for backbone/res2/block0/conv1/kernel)",
    "  missing roi_heads.box_predictor.cls_score.fc1.bias (for classifier/transfer/fc1/bias)",
    "  unused roi_heads.mask_head.deconv.bias (3,)",
  ]
  assert "--allow" in str(error.value)


def test_allowed_names_may_be_unused_or_missing(c4):
  params = _fill(c4)
  state = from_params(params)
  transfer = [n for n in state if re.search(r"cls_score\.fc\d", n)]
  for name in transfer:
    del state[name]
  state["roi_heads.mask_head.deconv.bias"] = np.ones(3)
  with pytest.raises(WeightsError, match=r"unused roi_heads\.mask_head"):
    to_params(state, c4, [r".*\.cls_score\.fc\d\..*"])
  with pytest.raises(WeightsError, match=r"missing .*fc1\.weight"):
    to_params(state, c4, [r"fc1", r".*mask_head\..*"])  # a pattern is for the whole name
  found = to_params(state, c4, [r".*\.cls_score\.fc\d\..*", r".*mask_head\..*"])
  del params["classifier"]["transfer"]
  _equal(found, params)


def test_another_shape_names_the_key_and_both_shapes(c4):
  state = from_params(_fill(c4))
  name = "proposal_generator.rpn_head.conv.weight"
  state[name] = state[name][:, :-1]
  message = rf"{name} has shape \(6, 63, 3, 3\), the network needs \(6, 64, 3, 3\)"
  with pytest.raises(WeightsError, match=message):
    to_params(state, c4)


def test_numbers_that_are_not_finite_are_refused(c4):
  state = from_params(_fill(c4))
  state["backbone.res3.0.conv1.norm.bias"][1] = np.nan
  with pytest.raises(WeightsError, match=r"res3\.0\.conv1\.norm\.bias holds numbers that are not"):
    to_params(state, c4)


def test_a_network_without_counterpart_is_named():
  kernel = np.zeros((1, 1, 2, 2))
  with pytest.raises(WeightsError, match="backbone/layer1_0/conv1/kernel has no counterpart"):
    entries({"backbone": {"layer1_0": {"conv1": {"kernel": kernel}}}})


def test_a_dense_layer_that_reads_no_square_map_is_refused(fpn):
  bad = dict(fpn) | {"box_head": {"fc1": {"kernel": jax.ShapeDtypeStruct((8 * 6, 2), np.float32)}}}
  state = {"roi_heads.box_head.fc1.weight": np.zeros((2, 48), np.float32)}
  with pytest.raises(WeightsError, match="48 numbers, which is no square map of 8 channels"):
    to_params(state, bad)


HEADS = (r"proposal_generator\..*", r"roi_heads\.(box_predictor|box_head|mask_head)\..*")


def _caffe2(state):
  """The trunk of a state dict as an ImageNet checkpoint of Caffe2: norms as scale and shift."""
  branches = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
  blobs = {"fc1000_w": np.ones((10, 4), np.float32), "fc1000_b": np.ones(10, np.float32)}
  leaves = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}
  for name, value in state.items():
    for leaf, short in leaves.items():
      if match := re.fullmatch(rf".*res(\d)\.(\d)\.(conv\d|shortcut)\.{leaf}", name):
        stage, block, branch = match.groups()
        blobs[f"res{stage}_{block}_branch{branches[branch]}_{short}"] = value
      elif re.fullmatch(rf".*stem\.conv1\.{leaf}", name):
        blobs["conv1_w" if short == "w" else f"res_conv1_{short}"] = value
  return blobs | {"conv1_b": np.zeros(4, np.float32)}


def test_imagenet_weights_of_caffe2_fill_the_trunk_and_res5(expected):
  params = _fill(expected)
  blobs = _caffe2(from_params(params))
  with pytest.raises(
    WeightsError, match=r"missing roi_heads\.box_(head|predictor)\..*\n.*\d+ in all: \d+ missing$"
  ):
    to_params(blobs, expected)
  found = to_params(blobs, expected, (*HEADS, r"backbone\.fpn_.*"))
  assert found.keys() == ({"backbone"} if "fpn" in expected else {"backbone", "box_head"})
  wanted = traverse_util.flatten_dict({k: params[k] for k in found}, sep="/")
  found = traverse_util.flatten_dict(found, sep="/")
  assert found.keys() == wanted.keys()
  constants = {"mean": 0.0, "var": 1.0}
  for path, value in found.items():
    leaf = path.rpartition("/")[2]
    like = np.full_like(value, constants[leaf]) if leaf in constants else wanted[path]
    np.testing.assert_array_equal(value, like)


def test_other_names_of_caffe2_norms():
  blobs = {
    f"res2_0_branch2a_bn_{leaf}": np.full(2, i, np.float32)
    for i, leaf in enumerate(("gamma", "beta", "running_mean", "running_var"))
  }
  found = canonical(blobs, {})
  assert {k: v[0] for k, v in found.items()} == {
    "res2.0.conv1.norm.weight": 0,
    "res2.0.conv1.norm.bias": 1,
    "res2.0.conv1.norm.running_mean": 2,
    "res2.0.conv1.norm.running_var": 3,
  }


def test_a_bias_of_the_stem_is_dropped_only_if_it_is_zero(c4):
  blobs = _caffe2(from_params(_fill(c4)))
  blobs["conv1_b"][2] = 0.5
  with pytest.raises(WeightsError, match=r"unused stem\.conv1\.bias \(4,\)"):
    to_params(blobs, c4, HEADS)
  to_params(blobs, c4, (*HEADS, r"stem\.conv1\.bias"))


def test_a_trunk_under_its_own_names_finds_its_place(c4):
  state = from_params(_fill(c4))
  trunk = {
    k.split(".", 1)[1]: v for k, v in state.items() if re.match(r"(backbone|roi_heads\.res5)\.", k)
  }
  assert "res5.0.conv1.weight" in trunk and "stem.conv1.weight" in trunk
  found = from_params({**_fill(c4, 1), **to_params(trunk, c4, HEADS)})
  for name, value in trunk.items():
    prefix = "roi_heads" if name.startswith("res5") else "backbone"
    np.testing.assert_array_equal(found[f"{prefix}.{name}"], value)


MEAN, BGR_MEAN = (123.675, 116.28, 103.53), (103.53, 116.28, 123.675)
DETECTOR, TRUNK = {"backbone.stem.conv1.weight": 0}, {"stem.conv1.weight": 0}


def _mean(values):
  return {**DETECTOR, "pixel_mean": np.float32(values).reshape(3, 1, 1)}


@pytest.mark.parametrize(
  "state, given, channels",
  [
    (DETECTOR, None, "bgr"),
    (DETECTOR, "rgb", "rgb"),
    (_mean(BGR_MEAN), None, "bgr"),
    (_mean(MEAN), None, "rgb"),
    ({f"module.{name}": value for name, value in _mean(MEAN).items()}, None, "rgb"),
    ({"conv1_w": 0, "res2_0_branch2a_w": 0}, None, "bgr"),
    (TRUNK, "bgr", "bgr"),
    (TRUNK, "rgb", "rgb"),
  ],
)
def test_the_order_of_channels_is_told_or_given(state, given, channels):
  assert channels_of(state, {}, MEAN, (1, 1, 1), given) == channels


@pytest.mark.parametrize(
  "state, notes, given, message",
  [
    (TRUNK, {}, None, "say --channels=bgr or --channels=rgb"),
    (TRUNK, {"__author__": "torchvision"}, None, "a network of torchvision"),
    (_mean(MEAN), {}, "bgr", "reads RGB, by its own .* not BGR as --channels says"),
    (_mean((1, 2, 3)), {}, None, r"pixel_mean is \[1.0, 2.0, 3.0\], model.pixel_mean is \[123.675"),
    (
      {**DETECTOR, "pixel_std": np.full(3, 58.0)},
      {},
      None,
      "pixel_std is .* trained on other pixels",
    ),
  ],
)
def test_another_order_is_not_taken_for_bgr(state, notes, given, message):
  with pytest.raises(WeightsError, match=message):
    channels_of(state, notes, MEAN, (1, 1, 1), given)


def test_a_convolution_of_rgb_stays_as_it_is(c4):
  params = _fill(c4)
  state = from_params(params)
  name = "backbone.stem.conv1.weight"
  state[name] = state[name][:, ::-1]
  _equal(to_params({f"module.{k}": v for k, v in state.items()}, c4, (), "rgb"), params)
