"""Reading checkpoints: what training, evaluation and prediction all restore through.

Everything that is read is compared with the digests that were saved with it.  Where the newest
checkpoint of a run is damaged, that is said, and the one before is taken.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax import traverse_util

from rkd_jax.runs.checkpoint import (
  FOLDER,
  FORMAT,
  CheckpointError,
  digest_of_record,
  items_of,
  leaves_of,
  reader,
  run_and_step,
  steps_of,
)
from rkd_jax.runs.digests import digests, kind
from rkd_jax.runs.state import TrainState, leaves_by_path

_Restored = TypeVar("_Restored")


class DamagedCheckpointError(CheckpointError):
  """A checkpoint is not, or no longer, what was saved."""


def restore_state(
  path: str | os.PathLike, state: TrainState, verify: bool = True
) -> TrainState | None:
  """The newest state of a run that can be read; None if it has no checkpoint.

  Args:
    path: the run's folder, or that folder followed by `checkpoints/<step>`.
    state: abstract or concrete; arrays are placed as there.
    verify: compares what was read with the digests that were saved with it.

  Raises:
    CheckpointError: no checkpoint can be read, or they belong to another config.
  """
  folder, step = run_and_step(path)

  def read(step: int, found: ocp.CheckpointManager) -> TrainState:
    restored = _read(found, step, items_of(state), verify=verify)
    return TrainState(**restored["variables"], **restored["optimizer"])

  if step not in (None, *steps_of(folder)) or not steps_of(folder):
    return None
  return _newest(folder, step, read)[1]


def set_aside(workdir: str | os.PathLike, step: int) -> None:
  """Moves what is newer than a step from `checkpoints` to `damaged`, so that it can be saved again.

  For the process alone that writes the run.
  """
  folder = epath.Path(workdir).resolve()
  for newer in steps_of(folder):
    if newer > step:
      target = folder / "damaged" / str(newer)
      if target.exists():
        target.rmtree()
      target.parent.mkdir(exist_ok=True)
      (folder / FOLDER / str(newer)).rename(target)


def restore_variables(
  path: str | os.PathLike, expected, allow_missing: Sequence[str] = (), verify: bool = True
):
  """Variables {'params', 'model_state'} of the newest checkpoint under a run's folder.

  Args:
    path: a run's folder, or that folder followed by `checkpoints/<step>`.
    expected: tree of arrays or ShapeDtypeStructs that says what the model needs.
    allow_missing: regular expressions of paths ('params/classifier/transfer/.*')
      that may be absent; those keep the values of `expected`.
    verify: compares what was read with the digests that were saved with it.

  Returns:
    A tree like `expected`; arrays are placed as there, or else on the first device.

  Raises:
    CheckpointError: nothing there, nothing that can be read, or it belongs to another model.
  """
  return restore_step(path, expected, allow_missing, verify)[1]


def restore_step(
  path: str | os.PathLike, expected, allow_missing: Sequence[str] = (), verify: bool = True
) -> tuple[int, Any]:
  """The step of the checkpoint that `restore_variables` reads, and what that returns."""
  folder, step = run_and_step(path)
  if not (folder / FOLDER).exists():
    raise CheckpointError(
      f"No checkpoint at {path}: expected a run's folder with '{FOLDER}' inside. "
      "Train first, or give the --workdir of a finished run."
    )
  available = steps_of(folder)
  if not available:
    raise CheckpointError(f"No complete checkpoint at {path}. Train for longer first.")
  if step is not None and step not in available:
    raise CheckpointError(f"{path}: there is no step {step}; expected one of {available}.")

  def read(step: int, found: ocp.CheckpointManager):
    return _read(found, step, {"variables": expected}, allow_missing, verify)["variables"]

  return _newest(folder, step, read)


def recorded_digests(path: str | os.PathLike) -> dict[str, str] | None:
  """Path -> digest of the arrays in the newest checkpoint of a run; None if it has format 1.

  Raises:
    CheckpointError: there is no checkpoint, or its record is damaged.
  """
  folder, step = run_and_step(path)
  step = max(steps_of(folder), default=None) if step is None else step
  if step is None:
    raise CheckpointError(f"No checkpoint at {path}.")
  try:
    return _recorded(folder / FOLDER / str(step))
  except (ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f"{folder / FOLDER / str(step)} has a damaged record.") from error


def _newest(
  folder: epath.Path, step: int | None, read: Callable[[int, ocp.CheckpointManager], _Restored]
) -> tuple[int, _Restored]:
  """The newest step that can be read, or the given one alone, and what is read of it."""
  steps = steps_of(folder)[::-1] if step is None else [step]
  with reader(folder / FOLDER) as found:
    for step, before in zip(steps, [*steps[1:], None]):
      try:
        return step, read(step, found)
      except DamagedCheckpointError as error:
        if before is None:
          if len(steps) > 1:
            raise DamagedCheckpointError(
              f"{error} No other checkpoint can be read: train anew in another --workdir."
            ) from error
          raise
        logging.warning("%s Step %d is taken instead.", error, before)
  raise AssertionError("no steps")


def _read(
  found: ocp.CheckpointManager,
  step: int,
  items: dict[str, Any],
  allow_missing: Sequence[str] = (),
  verify: bool = True,
) -> dict[str, Any]:
  """Trees like `items`, as they were saved."""
  place = found.directory / str(step)
  try:
    arrays = _recorded(place)
    stored = _by_metadata(found, step) if arrays is None else _named_in(items, arrays)
    wanted = leaves_of(items if arrays is not None else {"variables": items["variables"]})
    _check(place, wanted, stored, allow_missing)
    args = {name: _restore_args(tree, stored) for name, tree in items.items()}
    restored = found.restore(step, args=ocp.args.Composite(**args))
    if verify and arrays is not None:
      _compare({name: restored[name] for name in items}, arrays)
  except (CheckpointError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
    # Not, or not certainly, for what is in the files.
    raise
  except Exception as error:
    # What damage leads to in Orbax and in what it builds on is of many kinds.
    reason = next(iter(f"{error}".splitlines()), "")[:300]
    raise DamagedCheckpointError(
      f"Checkpoint {place} is damaged: {type(error).__name__}: {reason}."
    ) from error
  if allow_missing:
    return {name: _filled(tree, restored[name]) for name, tree in items.items()}
  return {name: restored[name] for name in items}


def _recorded(place: epath.Path) -> dict[str, str] | None:
  """Path -> digest of a checkpoint's arrays; None of one of format 1, which has none."""
  folder = place / "record"
  if not folder.exists():
    return None
  record = json.loads((folder / "metadata").read_text())
  if record["digest"] != digest_of_record(record):
    raise ValueError(f"{folder}/metadata is not what was saved")
  if record["format"] > FORMAT:
    raise CheckpointError(
      f"Checkpoint {place} has format {record['format']}, which a later version of rkd_jax wrote; "
      f"this one reads up to {FORMAT}: update it."
    )
  return record["arrays"]


def _by_metadata(found: ocp.CheckpointManager, step: int) -> dict[str, str]:
  """Path -> kind of the stored variables, as Orbax has it."""
  tree = found.item_metadata(step)["variables"].tree
  return {path: kind(leaf) for path, leaf in leaves_by_path(tree).items()}


def _named_in(items: dict[str, Any], arrays: dict[str, str]) -> dict[str, str]:
  names = {name for tree in items.values() for name in tree}
  return {path: array for path, array in arrays.items() if path.partition("/")[0] in names}


def _check(
  place: epath.Path, wanted: dict[str, Any], stored: dict[str, str], allow_missing: Sequence[str]
) -> None:
  """Compares what is stored, path -> kind and perhaps more, with what a config asks for."""
  allowed = [p for p in wanted if any(re.fullmatch(pattern, p) for pattern in allow_missing)]
  problems = [f"missing {p}" for p in wanted if p not in stored and p not in allowed]
  problems += [f"not in this config {p}" for p in stored if p not in wanted]
  kinds = {p: (stored[p].partition(" ")[0], kind(wanted[p])) for p in wanted if p in stored}
  problems += [f"{p} is {own}, expected {new}" for p, (own, new) in kinds.items() if own != new]
  if problems:
    more = f" ... and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise CheckpointError(
      f"Checkpoint {place} belongs to another config: {'; '.join(problems[:5])}{more}. Use the "
      "config it was trained with, or another checkpoint."
    )


def _restore_args(tree: dict[str, Any], stored: dict[str, str]) -> ocp.args.PyTreeRestore:
  """What restores a tree of (abstract) arrays, placed as they are, without those not stored."""
  # Without a sharding Orbax insists on the devices that wrote the checkpoint.
  first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  tree = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=getattr(x, "sharding", None) or first
    ),
    tree,
  )
  leaves = leaves_by_path(tree)
  if "params" in tree and not leaves.keys() <= stored.keys():
    there = {path: leaf for path, leaf in leaves.items() if path in stored}
    tree = {name: {} for name in tree} | traverse_util.unflatten_dict(there, sep="/")
  return ocp.args.PyTreeRestore(
    tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree)
  )


def _filled(tree: dict[str, Any], restored: dict[str, Any]) -> dict[str, Any]:
  """What was restored, and the rest of the tree as it is."""
  leaves = leaves_by_path(tree) | leaves_by_path(restored)
  return {name: {} for name in tree} | traverse_util.unflatten_dict(leaves, sep="/")


def _compare(restored: dict[str, Any], arrays: dict[str, str]) -> None:
  """Raises ValueError if an array is not the one whose digest was saved."""
  leaves = leaves_of(restored)
  found = zip(leaves, digests(list(leaves.values())))
  if differing := [path for path, digest in found if digest != arrays[path]]:
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise ValueError(f"other numbers than were saved in {', '.join(differing[:3])}{more}")
