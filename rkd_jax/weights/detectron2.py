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
from typing import Any

import numpy as np

from rkd_jax.weights import rename
from rkd_jax.weights.rename import Entry, WeightsError

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


def entries(params: Any) -> dict[str, Entry]:
  """Where detectron2 has every parameter of a detector (arrays or shapes), by its path here.

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
  for path in found.keys() & layouts.keys():
    found[path] = found[path]._replace(layout=layouts[path])
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
  state: Mapping[str, np.ndarray], expected: Any, allow: Sequence[str] = ()
) -> dict[str, Any]:
  """Parameters of a network from a state dict of detectron2 or object-centric-ovd.

  Arguments and errors are those of `rename.to_params`, and the errors of `entries`.
  """
  state = canonical(state, expected)
  remedy = (
    "Give the config it was trained with, or name what may be unused or missing in --allow (regular"
    " expressions)"
  )
  # Caffe2's stem has a bias, which detectron2 has no place for.
  zero_bias = not np.any(state.get("stem.conv1.bias", 0))
  ignored = rf"{_IGNORED}|stem\.conv1\.bias" if zero_bias else _IGNORED
  return rename.to_params(state, expected, entries(expected), remedy, ignored, allow)


def from_params(params: Any) -> dict[str, np.ndarray]:
  """The state dict of a network's parameters, as detectron2 has it; raises what `entries` does."""
  return rename.from_params(params, entries(params))
