"""Converts whole runs: a checkpoint file to a run's folder, and back."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath
from flax import traverse_util

from rkd_jax.checkpoint import (
  Checkpointer,
  check_model,
  latest_step,
  restore_variables,
  write_config,
)
from rkd_jax.convert import detectron2
from rkd_jax.convert.restricted import read_checkpoint
from rkd_jax.convert.torch_files import write_pth
from rkd_jax.models.rcnn import abstract_params
from rkd_jax.train.state import TrainState


def to_rkd_jax(
  config: ml_collections.ConfigDict, file: str, workdir: str, allow: Sequence[str] = ()
) -> str:
  """Writes a run's folder from a checkpoint file; returns a summary.

  Parameters that `allow` (regular expressions of detectron2 names) lets be missing are left out.

  Raises:
    ReadError, ConvertError: see `restricted` and `detectron2`.
    ValueError: the folder holds a checkpoint already.
  """
  if latest_step(workdir) is not None:
    raise ValueError(f"{workdir} holds a checkpoint already; give another --output.")
  expected = abstract_params(config)
  state = read_checkpoint(file)
  params = detectron2.to_params(state, expected, allow)
  write_config(workdir, config)
  checkpointer = Checkpointer(workdir)
  # Step 0 and no optimiser: a run does not resume from here, it starts through init.checkpoint.
  checkpointer.save(TrainState(step=jnp.int32(0), params=params, model_state={}, opt_state=()))
  checkpointer.close()

  names = detectron2.names(expected)
  unused = sorted(detectron2.canonical(state, expected).keys() - names.values())
  written = traverse_util.flatten_dict(params, sep="/")
  missing = [f"params/{path}" for path in names if path not in written]
  lines = [f"{_count(params)} to {workdir}"]
  lines += [f"not needed: {', '.join(unused)}"] if unused else []
  lines += [f"left out, for init.allow_missing: {', '.join(missing)}"] if missing else []
  return "\n".join(lines)


def to_detectron2(config: ml_collections.ConfigDict, workdir: str, file: str) -> str:
  """Writes a .pth file from a run's newest checkpoint; returns a summary.

  Raises:
    CheckpointError: there is none, or it belongs to another config.
    ConvertError: a network that detectron2 has no counterpart of.
  """
  check_model(workdir, config)
  expected = {"params": abstract_params(config), "model_state": {}}
  detectron2.names(expected["params"])
  params = jax.device_get(restore_variables(workdir, expected)["params"])
  epath.Path(file).parent.mkdir(parents=True, exist_ok=True)
  write_pth(file, detectron2.from_params(params))
  return f"{_count(params)} to {file}"


def _count(params) -> str:
  leaves = traverse_util.flatten_dict(params).values()
  return f"{len(leaves)} parameters, {sum(leaf.size for leaf in leaves):,} numbers"
