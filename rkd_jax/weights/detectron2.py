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

The first fully connected layer reads a map flattened as C, H, W there and as H, W, C here; images
are BGR there and RGB here, so the input channels of the first convolution change places.  RPN
channels (anchors of a cell, then dx, dy, dw, dh) are in the same order.

The embeddings of the classes and their frequencies (zs_weight, freq_weight) are no parameters here:
they come with the data.  The original builds both from its config if a checkpoint lacks them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rkd_jax.weights import rename
from rkd_jax.weights.rename import Entry, WeightsError

Channels = Literal["bgr", "rgb"]

# Who writes networks that read RGB into detectron2's files.
_RGB_AUTHORS = ("torchvision", "timm")

# Derived from the config or the data, or counters: no weight is lost without them.
_IGNORED = (
  r"pixel_(mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
  r"|roi_heads\.box_predictor\.(freq_weight|cls_score\.zs_weight)"
  r"|.*\.num_batches_tracked|fc1000\.(weight|bias)"
)

# What comes before the last part of a path, ours and theirs.
_RULES = (
  (r"backbone\.stem", r"BACKBONE.stem.conv1."),
  (r"backbone\.stem_norm", r"BACKBONE.stem.conv1.norm."),
  (r"backbone\.(res\d)\.block(\d+)\.(conv\d|shortcut)", r"BACKBONE.\1.\2.\3."),
  (r"backbone\.(res\d)\.block(\d+)\.(conv\d|shortcut)_norm", r"BACKBONE.\1.\2.\3.norm."),
  (r"fpn\.((lateral|output)\d)", r"backbone.fpn_\1."),
  (r"rpn\.conv", r"proposal_generator.rpn_head.conv."),
  (r"rpn\.objectness", r"proposal_generator.rpn_head.objectness_logits."),
  (r"rpn\.deltas", r"proposal_generator.rpn_head.anchor_deltas."),
  (r"box_head\.stage\.block(\d+)\.(conv\d|shortcut)", r"roi_heads.res5.\1.\2."),
  (r"box_head\.stage\.block(\d+)\.(conv\d|shortcut)_norm", r"roi_heads.res5.\1.\2.norm."),
  (r"box_head\.(fc\d)", r"roi_heads.box_head.\1."),
  (r"mask_head\.conv(\d)", r"roi_heads.mask_head.mask_fcn\1."),
  (r"mask_head\.(deconv|predictor)", r"roi_heads.mask_head.\1."),
  (r"box_predictor\.fc1", r"roi_heads.box_predictor.bbox_pred.0."),
  (r"box_predictor\.fc2", r"roi_heads.box_predictor.bbox_pred.2."),
  (r"classifier\.projection", r"roi_heads.box_predictor.cls_score.linear."),
  (r"classifier\.transfer\.(fc\d)", r"roi_heads.box_predictor.cls_score.\1."),
  (r"classifier", r"roi_heads.box_predictor.cls_score.cls_"),
)
# Names of Caffe2, and what detectron2 makes of them.
_CAFFE2 = (
  (r"^res(\d)_(\d+)_branch1_", r"res\1.\2.shortcut_"),
  (r"^res(\d)_(\d+)_branch2([abc])_", lambda m: f"res{m[1]}.{m[2]}.conv{'abc'.index(m[3]) + 1}_"),
  (r"^(res_)?conv1_", "stem.conv1_"),
  (r"_bn_(s|gamma)$", ".norm.weight"),
  (r"_bn_(b|beta)$", ".norm.bias"),
  (r"_bn_(rm|running_mean)$", ".norm.running_mean"),
  (r"_bn_(riv|running_var)$", ".norm.running_var"),
  (r"_w$", ".weight"),
  (r"_b$", ".bias"),
)
_LAYOUTS = {
  "backbone/stem/kernel": rename.BGR_CONVOLUTION,
  "mask_head/deconv/kernel": rename.TRANSPOSED_CONVOLUTION,
  "classifier/bias": rename.SCALAR,
}


def entries(params: Any, channels: Channels = "bgr") -> dict[str, Entry]:
  """Where detectron2 has every parameter of a detector (arrays or shapes), by its path here.

  `channels` is the order of those that its first convolution reads.

  Raises:
    WeightsError: a part of the network that detectron2 has no counterpart of.
  """
  rules = [(rf"^{ours}\.(?=\w+$)", theirs) for ours, theirs in _RULES]
  rules += [("^BACKBONE", "backbone.bottom_up" if "fpn" in params else "backbone")]
  found, layouts = rename.usual_entries(params, rules), dict(_LAYOUTS)
  for path, entry in found.items():
    # Group norms have no mean; detectron2's have other groups than ours.
    is_group_norm = path.endswith("norm/scale") and path.replace("scale", "mean") not in found
    if is_group_norm or entry.name == rename.renamed(path, ()):
      raise WeightsError(
        f"parameter {path} has no counterpart in detectron2; expected a config with "
        "model.backbone.kind='resnet' and norm='frozen', and the heads of the published models."
      )
  if "box_head/fc1/kernel" in found:
    # It reads regions of the map that the RPN reads.
    rows = params["box_head"]["fc1"]["kernel"].shape[0]
    channels = params["rpn"]["conv"]["kernel"].shape[2]
    layouts["box_head/fc1/kernel"] = rename.of_flattened_map(rows, channels)
  if channels == "rgb":
    del layouts["backbone/stem/kernel"]
  for path in found.keys() & layouts.keys():
    found[path] = found[path]._replace(layout=layouts[path])
  return found


def channels_of(
  state: Mapping[str, np.ndarray],
  notes: Mapping[str, str],
  mean: Sequence[float],
  std: Sequence[float],
  given: Channels | None = None,
) -> Channels:
  """The order of the channels that a checkpoint's first convolution reads.

  detectron2's detectors and Caffe2's networks read BGR.  A file may say otherwise by the pixel mean
  in it, or by its author; of a trunk alone under detectron2's names nothing tells.

  Args:
    notes: texts beside the arrays, such as '__author__'.
    mean, std: those of the network's pixels, in RGB.
    given: what the user says.

  Raises:
    WeightsError: other pixels than the network's, a network that is not built here, another order
      than the given one, or nothing tells the order and it is not given.
  """
  state = rename.unwrapped(state)
  author = next((a for a in _RGB_AUTHORS if a in notes.get("__author__", "").lower()), None)
  if author is not None:
    raise WeightsError(
      f"it is a network of {author}, which strides in the 3x3 convolutions and divides pixels by"
      " their deviation; the detectors here do neither. Use the network of MSRA (R-50.pkl)."
    )
  told = _told_channels(state, mean, std)
  if told is None and not any("." in name for name in state):
    told = "bgr"  # Caffe2
  if told and given and told != given:
    raise WeightsError(
      f"its first convolution reads {told.upper()}, by its own pixel mean or names,"
      f" not {given.upper()} as --channels says. Leave that out."
    )
  if told or given:
    return told or given  # pyright: ignore[reportReturnType]
  if "stem.conv1.weight" in state:
    raise WeightsError(
      "it is a trunk alone, and nothing in it tells whether its first convolution reads BGR"
      " (networks of Caffe and MSRA) or RGB (of PyTorch): say --channels=bgr or --channels=rgb."
    )
  return "bgr"


def _told_channels(
  state: Mapping[str, np.ndarray], mean: Sequence[float], std: Sequence[float]
) -> Channels | None:
  """What the pixel mean and deviation in a checkpoint tell; None without them."""
  told: list[Channels] = ["bgr", "rgb"]
  for name, ours in (("pixel_mean", np.array(mean)), ("pixel_std", np.array(std))):
    if name not in state:
      continue
    theirs = np.asarray(state[name], np.float64).reshape(-1)
    orders: dict[Channels, np.ndarray] = {"bgr": ours[::-1], "rgb": ours}
    told = [
      order
      for order in told
      if theirs.shape == (3,) and np.allclose(theirs, orders[order], rtol=1e-3, atol=1e-3)
    ]
    if not told:
      raise WeightsError(
        f"its {name} is {theirs[:3].tolist()}, model.{name} is {ours.tolist()} in RGB: it was"
        f" trained on other pixels. Give a config with its model.{name}."
      )
  return told[0] if len(told) == 1 else None


def canonical(state: Mapping[str, np.ndarray], params: Any) -> dict[str, np.ndarray]:
  """A state dict under the names of the whole detector.

  A backbone alone ('stem.conv1.weight', 'res5.0...') goes to where this network has its stages, a
  C4 network's res5 into the RoI head.  Names of Caffe2 ('res2_0_branch2a_w') are translated first;
  norms without statistics get mean 0 and variance 1, as when detectron2 loads them.
  """
  state = rename.unwrapped(state)
  if not any("." in name for name in state):
    state = _from_caffe2(state)
  full = {
    re.sub(r"^(backbone\.bottom_up|backbone|roi_heads)\.", "", name): name
    for name, _ in entries(params).values()
    if re.match(r"(backbone|backbone\.bottom_up|roi_heads)\.(stem|res\d)\.", name)
  }
  return {full.get(name, name): value for name, value in state.items()}


def _from_caffe2(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  found = {rename.renamed(name, _CAFFE2): value for name, value in state.items()}
  for name in [name for name in found if name.endswith(".norm.weight")]:
    norm, like = name.removesuffix("weight"), found[name]
    found.setdefault(f"{norm}running_mean", np.zeros_like(like))
    found.setdefault(f"{norm}running_var", np.ones_like(like))
  return found


def to_params(
  state: Mapping[str, np.ndarray],
  expected: Any,
  allow: Sequence[str] = (),
  channels: Channels = "bgr",
) -> dict[str, Any]:
  """Parameters of a network from a state dict of detectron2 or object-centric-ovd.

  `channels` is what `channels_of` says of it.  Other arguments and errors are those of
  `rename.to_params`, and the errors of `entries`.
  """
  state = canonical(state, expected)
  remedy = (
    "Give the config it was trained with, or name what may be unused or missing in --allow (regular"
    " expressions)"
  )
  # Caffe2's stem has a bias, which detectron2 has no place for.
  zero_bias = not np.any(state.get("stem.conv1.bias", 0))
  ignored = rf"{_IGNORED}|stem\.conv1\.bias" if zero_bias else _IGNORED
  found = entries(expected, channels)
  return rename.to_params(state, expected, found, remedy, ignored, allow)


def from_params(params: Any) -> dict[str, np.ndarray]:
  """The state dict of a network's parameters, as detectron2 has it; raises what `entries` does."""
  return rename.from_params(params, entries(params))
