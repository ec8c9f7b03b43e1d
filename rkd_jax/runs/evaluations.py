"""What a run's checkpoints were evaluated to, and which of them is the best."""

import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from rkd_jax.files import storage

_FILE = "evaluations.json"


def record(workdir: str | os.PathLike, step: int, results: Mapping[str, Any]) -> None:
  """Adds the results of a checkpoint to WORKDIR/evaluations.json; OSError if it cannot be written.

  For one process at a time.
  """
  _write(workdir, read(workdir) | {step: {k: v for k, v in results.items() if k != "per_class"}})


def forget_after(workdir: str | os.PathLike, step: int) -> None:
  """Removes the results of later steps, which a run that goes on from this one gets to again.

  A run from the beginning (step 0) knows nothing.
  """
  found = read(workdir)
  kept = {own: results for own, results in found.items() if 0 <= own <= step and step > 0}
  if kept != found:
    _write(workdir, kept)


def _write(workdir: str | os.PathLike, found: Mapping[int, Mapping[str, Any]]) -> None:
  content = {str(key): found[key] for key in sorted(found)}
  storage.write(epath.Path(workdir) / _FILE, json.dumps(content, indent=2))


def best_step(
  workdir: str | os.PathLike, metric: str, steps: Collection[int] | None = None
) -> int | None:
  """The step with the highest value of a metric among those evaluated, None if there is none.

  Of equal ones it is the first.  `steps` are those that may be chosen, None all.
  """
  values = {
    step: own[metric]
    for step, own in read(workdir).items()
    if own.get(metric) is not None and (steps is None or step in steps)
  }
  return max(sorted(values), key=values.__getitem__, default=None)


def read(workdir: str | os.PathLike) -> dict[int, dict[str, Any]]:
  """What each step was evaluated to; ValueError if the file is damaged."""
  file = epath.Path(workdir) / _FILE
  try:
    return {int(step): own for step, own in json.loads(file.read_text()).items()}
  except FileNotFoundError:
    return {}
  except (ValueError, AttributeError) as error:
    raise ValueError(f"{file} is damaged ({error}): remove it, and evaluate again.") from error
