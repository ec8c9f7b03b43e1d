"""Saving: what a checkpoint is, and how one is written.

A run's folder holds `config.json` and `checkpoints/<step>/{variables,optimizer,record}`, in Orbax'
format.  `variables` (params and running statistics) stands alone: who needs the network never reads
the optimiser.  `record` has the number of the format and a digest of every array; `runs.restore`
reads all three and compares.  Checkpoints of format 1 have no record.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import xxhash
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from rkd_jax.files import storage
from rkd_jax.machine import cluster
from rkd_jax.runs.digests import digests
from rkd_jax.runs.evaluations import best_step
from rkd_jax.runs.state import TrainState, leaves_by_path

FORMAT = 2
FOLDER = "checkpoints"


class CheckpointError(ValueError):
  """A checkpoint is missing, damaged or does not belong to this config, or cannot be saved."""


class Checkpointer(contextlib.AbstractContextManager):
  """Saves the TrainState of one run, keeping the last n steps, and the best by a metric if given.

  A save that fails, for a full disk or a lost mount, is said once and loses nothing that was there;
  the next one tries again, and `close` raises if the last one failed.

  Raises:
    CheckpointError: the folder's name has brackets, which Orbax takes for a pattern.
  """

  def __init__(self, workdir: str, keep: int = 2, best: str = ""):
    self._directory = epath.Path(workdir).resolve() / FOLDER
    name = os.fspath(self._directory)
    if "[" in name and "]" in name[name.index("[") :]:
      raise CheckpointError(
        f"{workdir}: checkpoints cannot be read again from a folder with [ ] in its path; give it "
        "another name."
      )
    self._most = keep + bool(best)
    policies: list[Any] = [preservation_policy.LatestN(keep)]
    if best:
      policies.append(_Best(self._directory.parent, best))
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
      cleanup_tmp_directories=True,
    )
    self._manager: ocp.CheckpointManager | None = None
    self._saving: int | None = None  # the step that is under way
    self._needed = 0  # bytes of a state
    self._seen, self._failure = False, ""

  def check_room(self, state: TrainState) -> None:
    """Raises CheckpointError if the disk has no room for all that a run keeps of such states."""
    needed = sum(x.size * x.dtype.itemsize for x in leaves_of(items_of(state)).values())
    self._directory.mkdir(parents=True, exist_ok=True)
    # The oldest goes only after the next one is there.
    needed *= max(self._most + 1 - len(steps_of(self._directory.parent)), 1)
    free = _free_bytes(self._directory)
    if free is not None and free < needed:
      raise CheckpointError(
        f"{self._directory}: the checkpoints of a run need {needed:,} bytes more, and {free:,} are "
        "free. Make room, or lower checkpoint.keep."
      )

  def save(self, state: TrainState) -> None:
    """Starts an asynchronous save; one that is killed or fails leaves the earlier steps intact."""
    self._finish()
    items = items_of(state)
    leaves = leaves_of(items)
    args = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
    args["record"] = ocp.args.JsonSave(
      checked_record(dict(zip(leaves, digests(list(leaves.values())))))
    )
    step, needed = int(state.step), sum(getattr(x, "nbytes", 8) for x in leaves.values())
    self._saving, self._needed = step, needed
    try:
      if self._manager is None:
        self._manager = manager(self._directory, self._options)
      free = _free_bytes(self._directory)
      if free is not None and free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      self._manager.save(step, args=ocp.args.Composite(**args))
    except jax.errors.JaxRuntimeError:
      raise
    except Exception as error:
      self._fail(error)
    if not self._seen:
      # Once per process: that what was written under this path can be found there again.
      self._finish()

  def close(self) -> None:
    """Waits for a save in progress.

    Raises:
      CheckpointError: the last save failed.
    """
    self._finish()
    if self._manager is not None:
      self._manager.close()
    if self._failure:
      raise CheckpointError(self._failure)

  def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
    try:
      self.close()
    except CheckpointError:
      # Nothing may hide why the block ended; that a save failed was said when it did.
      if kind in (None, SystemExit):
        raise

  def _finish(self) -> None:
    """Waits for a save in progress, and sees that it can be read."""
    if self._saving is None or self._manager is None:
      return
    try:
      self._manager.wait_until_finished()
      if not self._seen:
        # By the files, not by what this process remembers.
        with reader(self._directory) as found:
          if not found.item_metadata(self._saving)["variables"].tree:
            raise OSError("nothing of what was written can be found again")
        self._seen = True
    except Exception as error:
      self._fail(error)
    else:
      self._saving, self._failure = None, ""

  def _fail(self, error: Exception) -> None:
    """Says why a save failed; the next one begins anew."""
    step, self._saving = self._saving, None
    # A manager would fail again, with the same error.
    self._manager = None
    reason, sizes = f"{type(error).__name__}: {error}", f"{self._needed:,} bytes are to be written"
    try:
      kept, free = latest_step(self._directory.parent), _free_bytes(self._directory)
    except OSError as lost:
      kept, free = None, None
      reason = f"{lost}"
    if free is not None:
      sizes += f", and {free:,} are free"
    if len(reason) > 300:
      reason = f"{reason[:100]} ... {reason[-200:]}"
    newest = "no checkpoint is there" if kept is None else f"the newest one is of step {kept}"
    self._failure = (
      f"Step {step} could not be saved in {self._directory} ({sizes}): {reason}. Make room or mend "
      f"it; {newest}."
    )
    logging.error("%s Training goes on, and the next save tries again.", self._failure)


def items_of(state: TrainState) -> dict[str, dict[str, Any]]:
  """What a state is stored as: the trees of a checkpoint's two folders."""
  memory = {"memory": state.memory} if state.memory else {}
  return {
    "variables": {"params": state.params, "model_state": state.model_state},
    "optimizer": {"opt_state": state.opt_state, "step": state.step, **memory},
  }


def leaves_of(items: Mapping[str, Any]) -> dict[str, Any]:
  """'params/head/kernel' -> leaf, of all trees of a checkpoint."""
  return leaves_by_path({name: tree for item in items.values() for name, tree in item.items()})


def checked_record(arrays: dict[str, str]) -> dict[str, Any]:
  """What says what a checkpoint holds, from the digests of its arrays, with one of itself."""
  content = {"format": FORMAT, "arrays": arrays}
  return content | {"digest": digest_of_record(content)}


def digest_of_record(record: Mapping[str, Any]) -> str:
  content = {key: value for key, value in record.items() if key != "digest"}
  return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())


def steps_of(workdir: str | os.PathLike) -> list[int]:
  """Those of a run's complete checkpoints, in order."""
  directory = epath.Path(workdir).resolve() / FOLDER
  names = [f.name for f in directory.iterdir()] if directory.exists() else []
  return sorted(int(name) for name in names if name.isdigit())


def latest_step(workdir: str | os.PathLike) -> int | None:
  """Step of the newest complete checkpoint of a run, or None."""
  return max(steps_of(workdir), default=None)


def run_and_step(path: str | os.PathLike) -> tuple[epath.Path, int | None]:
  """A run's folder and, if the path is that of `.../checkpoints/<step>` in it, the step.

  `.../checkpoints/latest` is the run's folder itself; `.../checkpoints/best` has the step that
  scored best, of those that are there, by the metric `checkpoint.best` of the run's config (see
  `evaluations`).

  Raises:
    CheckpointError: there is no best one.
  """
  folder = epath.Path(path).resolve()
  if folder.parent.name != FOLDER:
    return folder, None
  run = folder.parent.parent
  if folder.name == "best":
    return run, _best_step(run)
  if folder.name == "latest":
    return run, None
  return (run, int(folder.name)) if folder.name.isdigit() else (folder, None)


def _best_step(run: epath.Path) -> int:
  file = run / "config.json"
  try:
    metric = json.loads(file.read_text())["checkpoint"].get("best") if file.exists() else None
  except (ValueError, KeyError) as error:
    raise CheckpointError(f"{file} is damaged: {error!r}.") from error
  step = best_step(run, metric, steps_of(run)) if metric else None
  if step is None:
    raise CheckpointError(
      f"{run}: which checkpoint is the best is not known: train with --config.checkpoint.best="
      "METRIC, such as AP50_novel, and evaluate."
    )
  return step


@dataclasses.dataclass(frozen=True)
class _Best:
  """Says to Orbax which checkpoints to keep: the best one by a metric."""

  run: epath.Path
  metric: str

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
    steps = [info.step for info in checkpoints]
    best = best_step(self.run, self.metric, steps)
    return [step == best for step in steps]


def manager(directory: epath.Path, options) -> ocp.CheckpointManager:
  # By default every device would write a slice of what all hold alike, and a program be compiled to
  # cut it for each shape and device, while training waits for its first save.
  arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
  scalars = ocp.type_handlers.ScalarHandler()
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, arrays),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
    *((kind, scalars) for kind in (int, float, np.number)),
  )
  handlers: dict[str, Any] = {
    name: ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    for name in ("variables", "optimizer")
  }
  handlers["record"] = ocp.JsonCheckpointHandler()
  return ocp.CheckpointManager(directory, item_handlers=handlers, options=options)


def reader(directory: epath.Path) -> ocp.CheckpointManager:
  """A manager that writes nothing, and neither needs other processes nor waits for them."""
  here = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(here, {here}, f"process_{here}")
  return manager(
    directory, ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone)
  )


def _free_bytes(directory: epath.Path) -> int | None:
  """Of the disk that a folder is on, as the first process sees it; None of an object store."""
  if storage.is_remote(directory):
    return None
  return cluster.of_first(shutil.disk_usage(directory).free)
