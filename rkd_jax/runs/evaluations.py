"""What a run's checkpoints were evaluated to, and which of them is the best."""

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from rkd_jax.files import storage

_FILE = "evaluations.json"


def record(workdir: str | os.PathLike, step: int, results: Mapping[str, Any]) -> None:
  """Adds the results of a checkpoint to WORKDIR/evaluations.json; OSError if it cannot be written.

  For one process at a time.
  """
  found = _read(workdir) | {step: {k: v for k, v in results.items() if k != "per_class"}}
  content = {str(key): found[key] for key in sorted(found)}
  storage.write(epath.Path(workdir) / _FILE, json.dumps(content, indent=2))


def best_step(workdir: str | os.PathLike, metric: str) -> int | None:
  """The step with the highest value of a metric among those evaluated, None if there is none.

  Of equal ones it is the first.
  """
  found = _read(workdir)
  values = {step: own[metric] for step, own in found.items() if own.get(metric) is not None}
  return max(sorted(values), key=values.__getitem__, default=None)


def _read(workdir: str | os.PathLike) -> dict[int, dict[str, Any]]:
  file = epath.Path(workdir) / _FILE
  try:
    return {int(step): own for step, own in json.loads(file.read_text()).items()}
  except FileNotFoundError:
    return {}
  except (ValueError, AttributeError) as error:
    raise ValueError(f"{file} is damaged ({error}): remove it, and evaluate again.") from error
