"""Where a run starts: fresh parameters, an earlier run, or a pretrained backbone."""

import dataclasses

import jax
import ml_collections

from rkd_jax.frozen.clip import load_clip
from rkd_jax.models.backbones.kinds import KINDS
from rkd_jax.runs.checkpoint import restore_variables
from rkd_jax.runs.state import TrainState


def initialize(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
  """A fresh state with what `config.init` names put in its place.

  `init.checkpoint`: all parameters of an earlier run's newest checkpoint, but those of
  `init.allow_missing`.  `init.backbone`: the backbone of a detector from the image tower of a
  CLIP run.

  Raises:
    CheckpointError: nothing there, or it belongs to another model.
    ValueError: both are given, or the tower is not that of the config's backbone.
  """
  checkpoint, backbone = config.init.checkpoint, config.init.get("backbone", "")
  if checkpoint and backbone:
    raise ValueError(
      f"init.checkpoint {checkpoint!r} holds a backbone already; leave init.backbone empty."
    )
  if checkpoint:
    fresh = {"params": state.params, "model_state": state.model_state}
    loaded = restore_variables(checkpoint, fresh, config.init.allow_missing)
    return dataclasses.replace(state, params=loaded["params"], model_state=loaded["model_state"])
  if backbone:
    clip = load_clip(backbone)
    kind = config.model.backbone.kind
    from_clip = getattr(KINDS[kind], "from_clip", None)
    if from_clip is None:
      able = ", ".join(repr(name) for name, kind in KINDS.items() if hasattr(kind, "from_clip"))
      raise ValueError(
        f"init.backbone: model.backbone.kind={kind!r} cannot start from a CLIP, but {able} can."
      )
    params = from_clip(config.model, clip.model.config, clip.variables, backbone)
    placed = jax.tree.map(
      lambda value, like: jax.device_put(value, like.sharding), params, state.params["backbone"]
    )
    return dataclasses.replace(state, params={**state.params, "backbone": placed})
  return state
