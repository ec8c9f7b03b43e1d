"""The config of a run's folder: stored at its start, compared when it goes on, read back."""

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
from absl import logging
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
  "on_nonfinite",
  "profile_steps",
  "skip_bad_images",
)
# Settings that configs of earlier versions lack, and what these did without them.
DEFAULTS = {
  "data.box.pseudo_label_score": 0.0,
  "data.box.pseudo_labels": 0,
  "loss.contrastive.duplicates": 0.999,
  "loss.contrastive.queue": 0,
  "loss.contrastive.temperature": 20.0,
  "loss.contrastive.weight": 0.0,
  "loss.ils.boxes": "pseudo",
  "loss.pseudo_agreement.on": False,
  "loss.pseudo_agreement.threshold": 0.0,
  "loss.pseudo_background": False,
  "loss.relations.temperature": 5.0,
  "loss.relations.weight": 0.0,
  "loss.rpn.teacher_boxes.below": 0.0,
  "loss.rpn.teacher_boxes.regression": True,
  "model.precision": "default",
}
# Settings that say where something lies: it may move.
_PLACES = (
  r"data(\.\w+)?\.(dir|teachers|class_embeddings)|class_embeddings|image_counts"
  r"|init\.(checkpoint|backbone)"
)
# Of the free ones, those that results depend on.
_EVALUATED_WITH = (
  "data.name",
  "evaluation.protocol",
  "model.test",
  "model.rpn.test",
  *(f"data.eval.{name}" for name in ("split", "canvas", "short_sides", "max_side")),
)
IDENTITY_FILE = "identity.json"


def check_config(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> list[str]:
  """Checks that a run which has a checkpoint goes on with the settings it had.

  Where its data lie is not compared here but in `write_config`.  It may go on for longer; what
  that changes is returned in sentences.

  Raises:
    CheckpointError: naming the settings that differ.
  """
  old, new = _stored(workdir), config.to_dict()
  if old is None:
    return []
  notes = []
  found = _differing(_with_joined_results(old, new), new)
  found = {key: values for key, values in found.items() if not _is_place(key)}
  if "num_steps" in found and found["num_steps"][1] >= (latest_step(workdir) or 0):
    before, after = found.pop("num_steps")
    effect = "the learning rate of the steps that both have stays"
    if new["optimizer"].get("schedule") == "cosine":
      effect = "the cosine ends later, and from here on the learning rate is another"
    notes.append(f"{workdir}: num_steps is {after}, and was {before}: {effect}.")
  if found:
    raise _other(workdir, found)
  return notes


def write_config(
  workdir: str | os.PathLike,
  config: ml_collections.ConfigDict,
  identities: Mapping[str, str | None] | None = None,
) -> None:
  """Stores the config of a run, once it is certain that a continued run computes the same.

  A run that never saved a checkpoint may start again with any config.

  Args:
    identities: digests of what the config names by its place, by setting (`train.identity`).  They
      are stored, and decide whether it may be somewhere else now.

  Raises:
    CheckpointError: see `check_config`; or what is named is not what it was, or nothing is known of
      it and it has moved.
  """
  for note in check_config(workdir, config):
    logging.warning(note)
  folder, old, new = epath.Path(workdir), _stored(workdir), config.to_dict()
  if old is not None:
    found = _differing(_with_joined_results(old, new), new)
    moved = {key: values for key, values in found.items() if _is_place(key)}
    file = folder / IDENTITY_FILE
    _compare(workdir, moved, _read(file) if file.exists() else {}, identities or {})
  if identities is not None:
    storage.write(folder / IDENTITY_FILE, json.dumps(identities, indent=2))
  storage.write(folder / "config.json", json.dumps(new, indent=2))


def _compare(
  workdir: str | os.PathLike,
  moved: Mapping[str, tuple[str, str]],
  before: Mapping[str, str | None],
  now: Mapping[str, str | None],
) -> None:
  """Raises CheckpointError if what a run computes from is, or may be, not what it was."""
  for key, values in moved.items():
    of_records = key.rpartition(".")[2] in ("dir", "teachers")
    names = [name for name in now if name.startswith("records.")] if of_records else [key]
    if not names or any(before.get(name) is None or now.get(name) is None for name in names):
      # Of runs of earlier versions nothing is known.
      raise _other(workdir, {key: values})
  # What a run started from is not read again.
  compared = [name for name in before if not name.startswith("init.") or name in moved]
  if changed := [name for name in compared if now and before[name] != now.get(name)]:
    places = [f"{key} was {old} and is {new}" for key, (old, new) in moved.items()]
    raise CheckpointError(
      f"{workdir} was started with other data: {', '.join(changed)} changed "
      f"({'; '.join(places) or 'at the same place'}). Give the run what it had, or take another "
      "--workdir."
    )
  for key, (old, new) in moved.items():
    logging.warning("%s: %s was %s and is %s, with the same content.", workdir, key, old, new)


def places(config: Mapping[str, Any]) -> list[str]:
  """The settings that say where something lies, not what it is: 'data.dir' and so on."""
  return [key for key in _flat(config) if _is_place(key)]


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[str]:
  for key, value in config.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{above}{key}.")
    else:
      yield f"{above}{key}"


def at(config: Mapping[str, Any], key: str) -> Any:
  """The value of a setting by its dotted name; None if it is not there."""
  value: Any = config
  for name in key.split("."):
    value = value.get(name) if isinstance(value, Mapping) else None
  return value


def _is_place(key: str) -> bool:
  return re.fullmatch(_PLACES, key) is not None


def _stored(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """The config of a run that has a checkpoint to go on from."""
  file = epath.Path(workdir) / "config.json"
  if latest_step(workdir) is None or not file.exists():
    return None
  return _read(file)


def _read(file: epath.Path) -> dict[str, Any]:
  try:
    return json.loads(file.read_text())
  except ValueError as error:
    raise CheckpointError(
      f"{file} is damaged: {error}. Write it anew by starting the same command with another "
      "--workdir, and copy it from there."
    ) from error


def _other(workdir: str | os.PathLike, found: Mapping[str, tuple[Any, Any]]) -> CheckpointError:
  shown = [f"{key} ({old!r}, now {new!r})" for key, (old, new) in found.items()]
  more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
  return CheckpointError(
    f"{workdir} was started with another config; it differs in {', '.join(shown[:10])}{more}. Use "
    "the same settings to resume, or another --workdir."
  )


def _differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
  """The settings that differ, but for the free ones, with both values."""
  free = tuple(f"{key}." for key in FREE_KEYS)
  found = differing(old, new)
  return {key: values for key, values in found.items() if not f"{key}.".startswith(free)}


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
  """All settings that differ between two configs, with both values.

  What one of them lacks, as configs of earlier versions do, is as in `DEFAULTS`.
  """
  found = differences(old, new)
  for key, default in DEFAULTS.items():
    if found.get(key) in ((None, default), (default, None)):
      del found[key]
  return found


def evaluated_otherwise(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
  """The settings of two configs that results depend on and that differ, with both values.

  What the first does not have, as configs of earlier versions, is left out, and so is what a fusion
  would do that is off in both.
  """
  found: dict[str, tuple[Any, Any]] = {}
  if "data" in old:
    old = _with_joined_results(copy.deepcopy(dict(old)), dict(new))
  for key in _EVALUATED_WITH:
    found |= differences(at(old, key), at(new, key), key)
  fusion = "model.test.fusion"
  if not any((at(one, fusion) or {}).get("kind") for one in (old, new)):
    found = {key: values for key, values in found.items() if not key.startswith(f"{fusion}.")}
  return {key: values for key, values in found.items() if values[0] is not None}


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
  return ml_collections.ConfigDict(with_tuples(_read(file))).lock()


def with_tuples(value: Any) -> Any:
  """JSON with tuples in place of lists, as configs are written."""
  if isinstance(value, dict):
    return {key: with_tuples(inner) for key, inner in value.items()}
  return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def check_model(path: str, config: ml_collections.ConfigDict) -> None:
  """Checks that a run's network has the settings of `config.model`.

  Shapes alone do not tell a pixel mean or a temperature apart.  Test-time settings are free.

  Raises:
    CheckpointError: naming the first settings that differ.
  """
  file = run_and_step(path)[0] / "config.json"
  if not file.exists():
    return
  old = {"model": _read(file).get("model", {})}
  if differing := _differing(old, {"model": config.model.to_dict()}):
    raise CheckpointError(
      f"Checkpoint {path} belongs to another config: it differs in {', '.join(differing)}. Use the "
      "config it was trained with."
    )
