"""Converts checkpoints of detectron2 and object-centric-ovd to rkd_jax, and back.

  python -m rkd_jax.convert --config=configs/coco/rkd.py --input=model_final.pth --output=runs/rkd
  python -m rkd_jax.convert --config=configs/coco/rkd.py --input=runs/rkd --output=rkd.pth \\
    --to=detectron2

To rkd_jax: the input is a .pth (torch.save), .pkl (detectron2's model zoo, ImageNet weights of
Caffe2) or .npz file; the output is a run's folder, for `--mode=eval`, `init.checkpoint` and
predict.  To detectron2: the input is a run's folder, its newest step or `.../checkpoints/<step>`;
the output is a .pth file for MODEL.WEIGHTS.

Every parameter is accounted for.  Unused and missing ones are listed and are an error unless
--allow names them, in detectron2's names.  Missing ones are left out of the output: training starts
them afresh if `init.allow_missing` names them too.  ImageNet weights, for instance:

  python -m rkd_jax.convert --config=configs/coco/base.py --input=R-50.pkl --output=runs/r50 \\
    --allow='proposal_generator\\..*,roi_heads\\.box_predictor\\..*'

Networks of detectron2 read BGR, those here RGB, and the first convolution is changed accordingly.
Of a trunk alone that does not say what it reads, --channels must.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import app, flags
from etils import epath
from flax import traverse_util
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.files.torch_writer import write_pth
from rkd_jax.files.untrusted.torch_reader import open_checkpoint
from rkd_jax.models.detector.rcnn import abstract_params
from rkd_jax.runs.checkpoint import Checkpointer, latest_step
from rkd_jax.runs.config import check_model, write_config
from rkd_jax.runs.restore import restore_variables
from rkd_jax.runs.state import TrainState
from rkd_jax.weights import detectron2, published
from rkd_jax.weights.rename import WeightsError


def to_rkd_jax(
  config: ml_collections.ConfigDict,
  file: str,
  workdir: str,
  allow: Sequence[str] = (),
  channels: detectron2.Channels | None = None,
) -> str:
  """Writes a run's folder from a checkpoint file; returns a summary.

  Raises:
    ReadError, WeightsError: see `read_checkpoint` and `detectron2.to_params`, also for `allow`, and
      `detectron2.channels_of`, also for `channels`.
    FileNotFoundError: there is no such file; the command that fetches it, if it is published.
    ValueError: the folder holds a checkpoint already.
  """
  published.check_there(file)
  if latest_step(workdir) is not None:
    raise ValueError(f"{workdir} holds a checkpoint already; give another --output.")
  params, state = read_params(config, file, allow, channels)
  write_config(workdir, config)
  checkpointer = Checkpointer(workdir)
  # Step 0 and no optimiser: a run does not resume from here, it starts through init.checkpoint.
  checkpointer.save(TrainState(step=jnp.int32(0), params=params, model_state={}, opt_state=()))
  checkpointer.close()

  expected = abstract_params(config)
  entries = detectron2.entries(expected)
  names = {entry.name for entry in entries.values()}
  unused = sorted(detectron2.canonical(state, expected).keys() - names)
  written = traverse_util.flatten_dict(params, sep="/")
  missing = [f"params/{path}" for path in entries if path not in written]
  lines = [f"{_count(params)} to {workdir}"]
  lines += [f"not needed: {', '.join(unused)}"] if unused else []
  lines += [f"left out, for init.allow_missing: {', '.join(missing)}"] if missing else []
  return "\n".join(lines)


def read_params(
  config: ml_collections.ConfigDict,
  file: str | os.PathLike,
  allow: Sequence[str] = (),
  channels: detectron2.Channels | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The parameters of a config's network in a file of detectron2, and all arrays of the file.

  Raises:
    ReadError, WeightsError: as for `to_rkd_jax`.
  """
  expected = abstract_params(config)
  state, _, notes = open_checkpoint(file)
  pixels = config.model.pixel_mean, config.model.pixel_std
  try:
    channels = detectron2.channels_of(state, notes, *pixels, channels)
    return detectron2.to_params(state, expected, allow, channels), state
  except WeightsError as error:
    raise WeightsError(f"{file}: {error}") from error


def to_detectron2(config: ml_collections.ConfigDict, workdir: str, file: str) -> str:
  """Writes a .pth file from a run's newest checkpoint; returns a summary.

  Raises:
    CheckpointError: there is none, or it belongs to another config.
    WeightsError: a network that detectron2 has no counterpart of.
  """
  check_model(workdir, config)
  expected = {"params": abstract_params(config), "model_state": {}}
  detectron2.entries(expected["params"])
  params = jax.device_get(restore_variables(workdir, expected)["params"])
  epath.Path(file).parent.mkdir(parents=True, exist_ok=True)
  write_pth(file, detectron2.from_params(params))
  return f"{_count(params)} to {file}"


def _count(params) -> str:
  leaves = jax.tree.leaves(params)
  return f"{len(leaves)} parameters, {sum(leaf.size for leaf in leaves):,} numbers"


def main(given: flags.FlagValues) -> None:
  if given.to != "rkd_jax" and given.allow:
    raise app.UsageError("--allow is for the way to rkd_jax; a run's folder is always whole.")
  if given.to != "rkd_jax" and given.channels:
    raise app.UsageError("--channels is for the way to rkd_jax; detectron2's files are BGR.")
  try:
    if given.to == "rkd_jax":
      print(to_rkd_jax(given.config, given.input, given.output, given.allow, given.channels))
    else:
      print(to_detectron2(given.config, given.input, given.output))
  except (ValueError, OSError) as error:
    sys.exit(f"{error}")


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("input", None, "Checkpoint file, or a run's folder.")
  flags.DEFINE_string("output", None, "The run's folder, or the .pth file, to write.")
  flags.DEFINE_enum("to", "rkd_jax", ["rkd_jax", "detectron2"], "Whose format to write.")
  flags.DEFINE_list(
    "allow", [], "Regular expressions of detectron2 names that may be unused or missing."
  )
  flags.DEFINE_enum(
    "channels",
    None,
    ["bgr", "rgb"],
    "What the first convolution of a trunk alone reads.",
  )
  flags.mark_flags_as_required(["config", "input", "output"])


if __name__ == "__main__":
  commands.run(main, define_flags)
