"""What is kept of a step whose loss or update is not finite, so that it can be run again."""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from rkd_jax.files import storage
from rkd_jax.frozen.clip import TOKENIZER_FILE
from rkd_jax.machine import cluster
from rkd_jax.runs.checkpoint import Checkpointer
from rkd_jax.runs.config import write_config
from rkd_jax.runs.digests import digests
from rkd_jax.runs.state import TrainState, leaves_by_path

FOLDER = "nonfinite"
STEP_FILE = "step.json"


class NonFiniteLossError(ValueError):
  """The loss or the update of a step is NaN or infinite; nothing of that step was kept."""


@dataclasses.dataclass(frozen=True)
class BadStep:
  """A step that was not finite: its number, kind, records [b], global batch and metrics."""

  step: int
  kind: str
  records: np.ndarray
  batch: Any = dataclasses.field(repr=False)
  metrics: Mapping[str, Any]

  def __str__(self) -> str:
    bad = ", ".join(f"{k}={float(v):g}" for k, v in self.metrics.items() if not np.isfinite(v))
    return f"Step {self.step} ({self.kind} batch, records {self.records.tolist()}): {bad}."


def allowed_in_a_row(on_nonfinite: str) -> int:
  """How many such steps in a row are passed over, from `config.on_nonfinite`.

  Raises:
    ValueError: it is neither 'stop' nor 'skip(N)'.
  """
  if on_nonfinite == "stop":
    return 0
  if found := re.fullmatch(r"skip\(([1-9]\d*)\)", on_nonfinite):
    return int(found[1])
  raise ValueError(
    f"on_nonfinite is {on_nonfinite!r}; expected 'stop', or, to pass over up to N steps in a row, "
    "'skip(N)'."
  )


def dump(
  workdir: str, config: ml_collections.ConfigDict, state: TrainState, bad: BadStep
) -> epath.Path:
  """Writes WORKDIR/nonfinite/STEP, which `replay` reads; returns that folder.

  It is a run's folder, with the state that the step began with, and `step.json`: records, digests
  of the batch's arrays and metrics.  All processes call it.
  """
  folder = epath.Path(workdir) / FOLDER / str(bad.step)
  batch = batch_digests(multihost_utils.process_allgather(bad.batch, tiled=True))
  with cluster.together():
    if cluster.is_first():
      if folder.exists():
        folder.rmtree()
      write_config(str(folder), config)
      tokenizer = epath.Path(workdir) / TOKENIZER_FILE
      if tokenizer.exists():
        storage.write(folder / TOKENIZER_FILE, tokenizer.read_text())
      said = {
        "step": bad.step,
        "kind": bad.kind,
        "records": bad.records.tolist(),
        "batch": batch,
        # JSON has no NaN.
        "metrics": {name: repr(float(value)) for name, value in bad.metrics.items()},
      }
      storage.write(folder / STEP_FILE, json.dumps(said, indent=2))
  number = jax.device_put(np.int32(bad.step), state.step.sharding)
  with Checkpointer(str(folder)) as checkpointer:
    checkpointer.save(dataclasses.replace(state, step=number))
  return folder


def batch_digests(batch: Any) -> dict[str, str]:
  """Field -> digest of a global batch in NumPy arrays."""
  arrays = leaves_by_path(batch)
  return dict(zip(arrays, digests([np.asarray(array) for array in arrays.values()])))
