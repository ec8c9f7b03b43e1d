"""The config of a run's folder: stored at its start, compared when it goes on, read back."""

import json
import os
from typing import Any

import ml_collections
from etils import epath

from rkd_jax.files import storage
from rkd_jax.files.json_checks import differences
from rkd_jax.runs.checkpoint import CheckpointError, latest_step, run_and_step

# Settings that may differ between a run and its continuation; configs of earlier versions have
# `mesh`.
FREE_KEYS = (
  "checkpoint",
  "compilation_cache",
  "data.cache",
  "data.eval",
  "data.threads",
  "evaluation",
  "gradient_accumulation_steps",
  "hosts",
  "log_every",
  "mesh",
  "model.remat",
  "model.rpn.test",
  "model.test",
  "profile_steps",
  "skip_bad_images",
)
# Settings that configs of earlier versions lack, and what they do without.
_DEFAULTS = {"model.precision": "default"}


def write_config(workdir: str, config: ml_collections.ConfigDict) -> None:
  """Stores the config of a run, or checks that a continued run has the same one.

  A run that never saved a checkpoint may start again with any config.

  Raises:
    CheckpointError: naming the first settings that differ.
  """
  file, new = epath.Path(workdir) / "config.json", config.to_dict()
  if file.exists() and latest_step(workdir) is not None:
    old = _with_joined_results(json.loads(file.read_text()), new)
    if differing := _differing(old, new):
      raise CheckpointError(
        f"{workdir} was started with another config; it differs in {differing}. Use the same "
        "settings to resume, or another --workdir."
      )
  storage.write(file, json.dumps(new, indent=2))


def _differing(old: dict[str, Any], new: dict[str, Any]) -> str:
  """The first settings that differ, but for the free ones; '' if none does."""
  free = tuple(f"{key}." for key in FREE_KEYS)
  found = differences(old, new)
  for key, default in _DEFAULTS.items():
    if found.get(key) in ((None, default), (default, None)):
      del found[key]
  return ", ".join([k for k in found if not f"{k}.".startswith(free)][:5])


def _with_joined_results(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
  """A config of the time when records had the teachers' results in them, as it is written now.

  Its data set NAME/rkd had the records of what is NAME/plain or shapes_ovd/scenes, in their order,
  so that a run goes on with the same batches.
  """
  data, now = old.get("data", {}), new["data"]
  if "teachers" in data or "teachers" not in now:
    return old
  for part, of_now in ((data, now), (data["box"], now["box"]), (data["image"], now["image"])):
    part |= {key: of_now[key] for key in ("teachers", "skip_missing_results") if key in of_now}
    data_set, _, config = part.get("name", "").partition("/")
    if config == "rkd" and of_now["name"].startswith(f"{data_set}/"):
      part["name"] = of_now["name"]
  return old


def restore_config(path: str | os.PathLike) -> ml_collections.ConfigDict:
  """The config of a run's folder, or of `.../checkpoints/<step>` in it.

  Raises:
    CheckpointError: the folder has none.
  """
  file = run_and_step(path)[0] / "config.json"
  if not file.exists():
    raise CheckpointError(
      f"{file} is missing: expected the --workdir of a run, or the --output of rkd_jax.convert."
    )
  return ml_collections.ConfigDict(_with_tuples(json.loads(file.read_text()))).lock()


def _with_tuples(value: Any) -> Any:
  """JSON with tuples in place of lists, as configs are written."""
  if isinstance(value, dict):
    return {key: _with_tuples(inner) for key, inner in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def check_model(path: str, config: ml_collections.ConfigDict) -> None:
  """Checks that a run's network has the settings of `config.model`.

  Shapes alone do not tell a pixel mean or a temperature apart.  Test-time settings are free.

  Raises:
    CheckpointError: naming the first settings that differ.
  """
  file = run_and_step(path)[0] / "config.json"
  if not file.exists():
    return
  old = {"model": json.loads(file.read_text()).get("model", {})}
  if differing := _differing(old, {"model": config.model.to_dict()}):
    raise CheckpointError(
      f"Checkpoint {path} belongs to another config: it differs in {differing}. Use the config it "
      "was trained with."
    )
