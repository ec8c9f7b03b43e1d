"""Names and layouts of detectron2 and object-centric-ovd parameters, both ways.

  detectron2                                    rkd_jax
  backbone[.bottom_up].{stem,res2..}            backbone/{stem,res2..}
  backbone.fpn_{lateral,output}L                fpn/{lateral,output}L
  proposal_generator.rpn_head.*                 rpn/*
  roi_heads.res5 | roi_heads.box_head.fcN       box_head/stage | box_head/fcN
  roi_heads.mask_head.*                         mask_head/*
  roi_heads.box_predictor.bbox_pred.{0,2}       box_predictor/{fc1,fc2}
  roi_heads.box_predictor.cls_score.linear      classifier/projection
  roi_heads.box_predictor.cls_score.fc1..4      classifier/transfer/fc1..4
  roi_heads.box_predictor.cls_score.cls_bias    classifier/bias

Layouts: convolutions OIHW to HWIO, linear layers (out, in) to (in, out), the transposed convolution
(in, out, h, w) to (h, w, in, out) without a flip; the first fully connected layer reads a map
flattened as C, H, W there and as H, W, C here; images are BGR there and RGB here, so the input
channels of the first convolution change places.  RPN channels (anchors of a cell, then dx, dy, dw,
dh) are in the same order.

The embeddings of the classes and their frequencies (zs_weight, freq_weight) are no parameters here:
they come with the data.  The original builds both from its config if a checkpoint lacks them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

# Derived from the config or the data, or counters: no weight is lost without them.
IGNORED = re.compile(
  r"pixel_(mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
  r"|roi_heads\.box_predictor\.(freq_weight|cls_score\.zs_weight)"
  r"|.*\.num_batches_tracked|fc1000\.(weight|bias)"
)

_NORM = r"(scale|bias|mean|var)"
_KERNEL_OR_BIAS = "(kernel|bias)"
_RULES = tuple(
  (re.compile(pattern), name)
  for pattern, name in (
    (r"backbone/stem/(kernel)", r"BACKBONE.stem.conv1.\1"),
    (rf"backbone/stem_norm/{_NORM}", r"BACKBONE.stem.conv1.norm.\1"),
    (r"backbone/(res\d)/block(\d+)/(conv\d|shortcut)/(kernel)", r"BACKBONE.\1.\2.\3.\4"),
    (
      rf"backbone/(res\d)/block(\d+)/(conv\d|shortcut)_norm/{_NORM}",
      r"BACKBONE.\1.\2.\3.norm.\4",
    ),
    (rf"fpn/(lateral|output)(\d)/{_KERNEL_OR_BIAS}", r"backbone.fpn_\1\2.\3"),
    (rf"rpn/conv/{_KERNEL_OR_BIAS}", r"proposal_generator.rpn_head.conv.\1"),
    (rf"rpn/objectness/{_KERNEL_OR_BIAS}", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (rf"rpn/deltas/{_KERNEL_OR_BIAS}", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"box_head/stage/block(\d+)/(conv\d|shortcut)/(kernel)", r"roi_heads.res5.\1.\2.\3"),
    (
      rf"box_head/stage/block(\d+)/(conv\d|shortcut)_norm/{_NORM}",
      r"roi_heads.res5.\1.\2.norm.\3",
    ),
    (rf"box_head/(fc\d)/{_KERNEL_OR_BIAS}", r"roi_heads.box_head.\1.\2"),
    (rf"mask_head/conv(\d)/{_KERNEL_OR_BIAS}", r"roi_heads.mask_head.mask_fcn\1.\2"),
    (rf"mask_head/(deconv|predictor)/{_KERNEL_OR_BIAS}", r"roi_heads.mask_head.\1.\2"),
    (rf"box_predictor/fc1/{_KERNEL_OR_BIAS}", r"roi_heads.box_predictor.bbox_pred.0.\1"),
    (rf"box_predictor/fc2/{_KERNEL_OR_BIAS}", r"roi_heads.box_predictor.bbox_pred.2.\1"),
    (
      rf"classifier/projection/{_KERNEL_OR_BIAS}",
      r"roi_heads.box_predictor.cls_score.linear.\1",
    ),
    (
      rf"classifier/transfer/(fc\d)/{_KERNEL_OR_BIAS}",
      r"roi_heads.box_predictor.cls_score.\1.\2",
    ),
    (r"classifier/(bias)", r"roi_heads.box_predictor.cls_score.cls_\1"),
  )
)
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class ConvertError(ValueError):
  """A state dict does not fit the config's network."""


def names(params: Any) -> dict[str, str]:
  """detectron2's name of every parameter: {'rpn/conv/kernel': 'proposal_generator...'}.

  Raises:
    ConvertError: a part of the network that detectron2 has no counterpart of.
  """
  backbone = "backbone.bottom_up" if "fpn" in params else "backbone"
  found = {}
  flat = traverse_util.flatten_dict(dict(params), sep="/")
  for path in flat:
    matches = (match.expand(n) for pattern, n in _RULES if (match := pattern.fullmatch(path)))
    name = next(matches, None)
    # Group norms have no mean; detectron2's have other groups than ours.
    group_norm = path.endswith("norm/scale") and path.replace("norm/scale", "norm/mean") not in flat
    if name is None or group_norm:
      raise ConvertError(
        f"parameter {path} has no counterpart in detectron2; expected a config with "
        "model.backbone.kind='resnet' and norm='frozen', and the heads of the published models."
      )
    stem, _, leaf = name.replace("BACKBONE", backbone).rpartition(".")
    found[path] = f"{stem}.{_LEAVES.get(leaf, leaf)}"
  return found


def canonical(state: Mapping[str, np.ndarray], params: Any) -> dict[str, np.ndarray]:
  """A state dict under the names of the whole detector.

  A backbone alone ('stem.conv1.weight', 'res5.0...') goes to where this network has its stages, a
  C4 network's res5 into the RoI head.  Names of Caffe2 ('res2_0_branch2a_w') are translated first;
  norms without statistics get mean 0 and variance 1, as when detectron2 loads them.
  """
  if not any("." in name for name in state):
    state = _from_caffe2(state)
  full = {
    re.sub(r"^(backbone\.bottom_up|backbone|roi_heads)\.", "", name): name
    for name in names(params).values()
    if re.match(r"(backbone|backbone\.bottom_up|roi_heads)\.(stem|res\d)\.", name)
  }
  return {full.get(name, name): value for name, value in state.items()}


def _from_caffe2(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  branches = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
  leaves = {
    "w": "weight",
    "b": "bias",
    **dict.fromkeys(("bn_s", "bn_gamma"), "norm.weight"),
    **dict.fromkeys(("bn_b", "bn_beta"), "norm.bias"),
    **dict.fromkeys(("bn_rm", "bn_running_mean"), "norm.running_mean"),
    **dict.fromkeys(("bn_riv", "bn_running_var"), "norm.running_var"),
  }
  suffix = "|".join(leaves)
  renamed = {}
  for name, value in state.items():
    if match := re.fullmatch(rf"res(\d)_(\d+)_branch(1|2[abc])_({suffix})", name):
      stage, block, branch, leaf = match.groups()
      name = f"res{stage}.{block}.{branches[branch]}.{leaves[leaf]}"
    elif match := re.fullmatch(rf"(?:res_)?conv1_({suffix})", name):
      name = f"stem.conv1.{leaves[match[1]]}"
    elif match := re.fullmatch(r"fc1000_(w|b)", name):
      name = f"fc1000.{leaves[match[1]]}"
    renamed[name] = value
  for name in [n for n in renamed if n.endswith(".norm.weight")]:
    norm, like = name.removesuffix("weight"), renamed[name]
    renamed.setdefault(f"{norm}running_mean", np.zeros_like(like))
    renamed.setdefault(f"{norm}running_var", np.ones_like(like))
  return renamed


def to_params(
  state: Mapping[str, np.ndarray], expected_params: Any, allow: Sequence[str] = ()
) -> dict[str, Any]:
  """Parameters of a network from a state dict of detectron2 or object-centric-ovd.

  Args:
    state: arrays by name, as `restricted.read_checkpoint` gives them.
    expected_params: tree of arrays or ShapeDtypeStructs that says what the network has.
    allow: regular expressions of detectron2 names that may be unused, or missing.

  Returns:
    A tree like `expected_params`, of NumPy arrays; parameters that `allow` lets be missing are left
    out of it.

  Raises:
    ConvertError: unused and missing names, other shapes and non-finite numbers, all of them listed.
  """
  expected_params = dict(expected_params)
  state = canonical(state, expected_params)
  channels = _roi_channels(expected_params)
  expected = traverse_util.flatten_dict(expected_params, sep="/")
  found, faults = {}, []

  def allowed(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in allow)

  wanted = names(expected_params)
  for path, name in wanted.items():
    like = expected[path]
    if name not in state:
      if not allowed(name):
        faults.append(f"missing {name} (for {path})")
      continue
    value = np.asarray(state[name])
    shape = _to_torch(path, np.broadcast_to(np.float32(0), like.shape), channels).shape
    if value.shape != shape:
      faults.append(f"{name} has shape {value.shape}, the config's network needs {shape}")
    elif not np.isfinite(value.astype(np.float32)).all():
      faults.append(f"{name} holds numbers that are not finite")
    else:
      value = _from_torch(path, value, channels)
      found[path] = np.ascontiguousarray(value, like.dtype).reshape(like.shape)
  for name in sorted(state.keys() - wanted.values()):
    # Caffe2's stem has a bias, which detectron2 has no place for.
    zero_bias = name == "stem.conv1.bias" and not np.any(state[name])
    if not (IGNORED.fullmatch(name) or zero_bias or allowed(name)):
      faults.append(f"unused {name} {np.shape(state[name])}")
  if faults:
    raise ConvertError(
      "the state dict does not fit the config's network. Give the config it was trained with, or "
      "name what may be unused or missing in --allow (regular expressions):\n  "
      + "\n  ".join(faults)
    )
  return traverse_util.unflatten_dict(found, sep="/")


def from_params(params: Any) -> dict[str, np.ndarray]:
  """The state dict, under detectron2's names and in torch's layouts, of a network's parameters.

  Raises:
    ConvertError: a part of the network that detectron2 has no counterpart of.
  """
  params = dict(params)
  channels = _roi_channels(params)
  flat = traverse_util.flatten_dict(params, sep="/")
  return {
    name: np.ascontiguousarray(_to_torch(path, np.asarray(flat[path]), channels))
    for path, name in names(params).items()
  }


def _roi_channels(params: Mapping[str, Any]) -> int:
  """Channels of the map that RoIs are cut from: the RPN reads the same one."""
  return params["rpn"]["conv"]["kernel"].shape[2]


def _from_torch(path: str, value: np.ndarray, channels: int) -> np.ndarray:
  if path == "classifier/bias":
    return value.reshape(())
  if path == "box_head/fc1/kernel":
    out, columns = value.shape
    side = _side(columns, channels)
    return value.reshape(out, channels, side, side).transpose(2, 3, 1, 0).reshape(columns, out)
  if path == "mask_head/deconv/kernel":
    return value.transpose(2, 3, 0, 1)
  if path == "backbone/stem/kernel":
    return value.transpose(2, 3, 1, 0)[:, :, ::-1]
  if not path.endswith("kernel"):
    return value
  return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)


def _to_torch(path: str, value: np.ndarray, channels: int) -> np.ndarray:
  if path == "classifier/bias":
    return value.reshape(1)
  if path == "box_head/fc1/kernel":
    rows, out = value.shape
    side = _side(rows, channels)
    return value.reshape(side, side, channels, out).transpose(3, 2, 0, 1).reshape(out, rows)
  if path == "mask_head/deconv/kernel":
    return value.transpose(2, 3, 0, 1)
  if path == "backbone/stem/kernel":
    return value[:, :, ::-1].transpose(3, 2, 0, 1)
  if not path.endswith("kernel"):
    return value
  return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)


def _side(rows: int, channels: int) -> int:
  """Side of the square RoI map that was flattened into `rows` numbers."""
  side = round((rows / channels) ** 0.5)
  if side * side * channels != rows:
    raise ConvertError(
      f"box_head/fc1 reads {rows} numbers, which is no square map of {channels} channels."
    )
  return side
