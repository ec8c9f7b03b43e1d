"""Orbax checkpoints: what training, evaluation and prediction all restore through.

A run's folder holds `config.json` and `checkpoints/<step>/{variables,optimizer}`.  `variables`
(params and running statistics) stands alone: who needs the network never reads the optimiser.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from rkd_jax.runs.state import TrainState, parameter_paths


class CheckpointError(ValueError):
  """A checkpoint is missing or does not belong to this config."""


class Checkpointer:
  """Saves and restores the TrainState of one run, keeping the last n steps."""

  def __init__(self, workdir: str, keep: int = 2):
    directory = epath.Path(workdir).resolve() / "checkpoints"
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    self._manager = _manager(directory, options)

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def save(self, state: TrainState) -> None:
    """Starts an asynchronous save; a killed save leaves the earlier steps intact."""
    items = {name: ocp.args.PyTreeSave(tree) for name, tree in _items(state).items()}
    self._manager.save(int(state.step), args=ocp.args.Composite(**items))

  def restore(self, step: int, state: TrainState) -> TrainState:
    """Restores onto the shapes and shardings of an abstract or concrete state."""
    items = _items(state)
    _check(self._manager, step, _leaves(items["variables"]))
    items = {name: _restore_args(tree) for name, tree in items.items()}
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    return TrainState(**restored["variables"], **restored["optimizer"])

  def close(self) -> None:
    """Waits for a save in progress."""
    self._manager.wait_until_finished()
    self._manager.close()


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
  """What a state is stored as: the trees of a checkpoint's two folders."""
  return {
    "variables": {"params": state.params, "model_state": state.model_state},
    "optimizer": {"opt_state": state.opt_state, "step": state.step},
  }


def latest_step(workdir: str) -> int | None:
  """Step of the newest complete checkpoint of a run, or None."""
  directory = epath.Path(workdir).resolve() / "checkpoints"
  if not directory.exists():
    return None
  return max((int(f.name) for f in directory.iterdir() if f.name.isdigit()), default=None)


def run_and_step(path: str | os.PathLike) -> tuple[epath.Path, int | None]:
  """A run's folder and, if the path is that of `.../checkpoints/<step>` in it, the step."""
  folder = epath.Path(path).resolve()
  if folder.parent.name == "checkpoints" and folder.name.isdigit():
    return folder.parent.parent, int(folder.name)
  return folder, None


def _manager(directory: epath.Path, options) -> ocp.CheckpointManager:
  # By default every device would write a slice of what all hold alike, and a program be compiled to
  # cut it for each shape and device, while training waits for its first save.
  arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
  scalars = ocp.type_handlers.ScalarHandler()
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, arrays),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
    *((kind, scalars) for kind in (int, float, np.number)),
  )
  handlers = {
    name: ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    for name in ("variables", "optimizer")
  }
  return ocp.CheckpointManager(directory, item_handlers=handlers, options=options)


def _restore_args(tree) -> ocp.args.PyTreeRestore:
  """What restores a tree of (abstract) arrays, placed as they are."""
  return ocp.args.PyTreeRestore(
    tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree)
  )


def _leaves(tree) -> dict[str, Any]:
  """Path -> leaf."""
  return dict(zip(jax.tree.leaves(parameter_paths(tree)), jax.tree.leaves(tree)))


def _check(manager, step: int, wanted: dict[str, Any], allow_missing: Sequence[str] = ()):
  """Paths of the stored variables, once they and their shapes are the wanted ones."""
  stored = _leaves(manager.item_metadata(step)["variables"].tree)
  allowed = [p for p in wanted if any(re.fullmatch(pattern, p) for pattern in allow_missing)]
  problems = [f"missing {p}" for p in wanted if p not in stored and p not in allowed]
  problems += [f"not in this config {p}" for p in stored if p not in wanted]
  shapes = {p: (tuple(stored[p].shape), tuple(wanted[p].shape)) for p in wanted if p in stored}
  problems += [f"{p} is {own}, expected {new}" for p, (own, new) in shapes.items() if own != new]
  if problems:
    more = f" ... and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise CheckpointError(
      f"Checkpoint {manager.directory} (step {step}) belongs to another config: "
      f"{'; '.join(problems[:5])}{more}. Use the config it was trained with, or another checkpoint."
    )
  return stored.keys()


def restore_variables(path: str, expected, allow_missing: Sequence[str] = ()):
  """Variables {'params', 'model_state'} of the newest checkpoint under a run's folder.

  Args:
    path: a run's folder, or that folder followed by `checkpoints/<step>`.
    expected: tree of arrays or ShapeDtypeStructs that says what the model needs.
    allow_missing: regular expressions of paths ('params/classifier/transfer/.*')
      that may be absent; those keep the values of `expected`.

  Returns:
    A tree like `expected`; arrays are placed as there, or else on the first device.

  Raises:
    CheckpointError: nothing there, or it belongs to another model.
  """
  folder, step = run_and_step(path)
  directory = folder / "checkpoints"
  if not directory.exists():
    raise CheckpointError(
      f"No checkpoint at {path}: expected a run's folder with 'checkpoints' inside. "
      "Train first, or give the --workdir of a finished run."
    )
  # Reading needs no other process, nor waits for one that reads something else or fails.
  here = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(here, {here}, f"process_{here}")
  options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone)
  with _manager(directory, options) as manager:
    available = sorted(manager.all_steps())
    if not available:
      raise CheckpointError(f"No complete checkpoint at {path}. Train for longer first.")
    step = available[-1] if step is None else step
    if step not in available:
      raise CheckpointError(f"{path}: there is no step {step}; expected one of {available}.")
    wanted = _leaves(expected)
    stored = _check(manager, step, wanted, allow_missing)
    empty = {"params": {}, "model_state": {}}
    # Without a sharding Orbax insists on the devices that wrote the checkpoint.
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {
      p: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=getattr(v, "sharding", None) or first)
      for p, v in wanted.items()
      if p in stored
    }
    target = empty | traverse_util.unflatten_dict(target, sep="/")
    restored = manager.restore(
      step, args=ocp.args.Composite(variables=_restore_args(target))
    ).variables
  return empty | traverse_util.unflatten_dict(wanted | _leaves(restored), sep="/")
