"""What is asked for: a recipe, its rows, seeds and root; and what is wrong with that."""

import ast
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from absl import logging

from rkd_jax import configs
from rkd_jax.files import storage
from rkd_jax.files.json_checks import differences
from rkd_jax.recipe.rows import Recipe, Row
from rkd_jax.runs.checkpoint import CheckpointError, latest_step
from rkd_jax.runs.config import check_config, differing, evaluated_otherwise, with_tuples

FILE = "recipe.json"


@dataclasses.dataclass(frozen=True)
class Order:
  """Rows of a recipe, to be there for each of some seeds below a root.

  Attributes:
    recipe: whose rows they are.
    root: folder of everything that is made.
    seeds: of the detectors.
    rows: with those that they start from, but with `only`.
    only: parents are not trained.
    settings: by dotted name, changed in the configs of all rows.
    arguments: of the configs of all rows, such as 'size=192,steps=400'.
    weights: folder of published weights, as `rkd-jax download` fills it.
    clip: weights or a run, where the recipe asks which.
  """

  recipe: Recipe
  root: str
  seeds: tuple[int, ...]
  rows: tuple[Row, ...]
  only: bool = False
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  arguments: str = ""
  weights: str = "weights"
  clip: str = ""

  @property
  def runs(self) -> Iterator[tuple[Row, int]]:
    """All rows of the first seed, then those of the next."""
    return ((row, seed) for seed in self.seeds for row in self.rows)

  def folder(self, row: Row, seed: int) -> str:
    return self.recipe.folder(self.root, row.name, seed)

  def parent(self, row: Row) -> Row | None:
    return self.recipe.row(row.parent) if row.parent else None

  def config(self, row: Row, seed: int) -> ml_collections.ConfigDict:
    """The config of a row's run, locked; that of coco_json depends on the run it starts from.

    Raises ValueError: a setting that there is not, or of another type.
    """
    parent = self.parent(row)
    if not row.trains:
      config = self.config(parent, seed).unlock()
      return changed(config, self._settings(row, seed)).lock()
    parts = (row.argument, self._arguments(row), self.recipe.places(self.root, seed))
    config = configs.load(f"{row.config}:{','.join(filter(None, parts))}").unlock()
    config.compilation_cache = f"{self.root}/jax_cache"
    if parent:
      config.init.checkpoint = self.folder(parent, seed)
    return changed(changed(config.lock(), self._settings(row, seed)), self.settings).lock()

  def _settings(self, row: Row, seed: int) -> dict[str, Any]:
    places = {"root": self.root, "seed": seed, "weights": self.weights}
    own = row.settings.items()
    return {key: v.format(**places) if isinstance(v, str) else v for key, v in own}

  def _arguments(self, row: Row) -> str:
    parts = filter(None, self.arguments.split(","))
    first = self.recipe.only_first if row.parent else ()
    return ",".join(part for part in parts if part.partition("=")[0] not in first)


def changed(
  config: ml_collections.ConfigDict, settings: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """The config with some settings, by dotted name, changed in place.

  Raises ValueError: there is no such setting, or its values are of another type.
  """
  for key, value in settings.items():
    *above, name = key.split(".")
    inner: Any = config
    try:
      for part in above:
        inner = inner[part]
      before = inner[name]
    except (KeyError, AttributeError, TypeError) as error:
      said = " ".join(f"{error.args[0]}".split())
      raise ValueError(f"config.{key}: there is no such setting ({said}).") from error
    try:
      inner[name] = value
    except TypeError as error:
      raise ValueError(
        f"config.{key}={value!r}: expected a {type(before).__name__}, such as {before!r}."
      ) from error
  return config


def parse_settings(arguments: Iterable[str]) -> dict[str, Any]:
  """'--config.num_steps=20' and so on, by dotted name; values are Python's, or else texts.

  Raises ValueError: one without a value, or twice.
  """
  found = {}
  for argument in arguments:
    key, equals, text = argument.removeprefix("--config.").partition("=")
    if not equals or key in found:
      problem = "given twice" if key in found else "without a value"
      raise ValueError(f"--config.{key} is {problem}: expected --config.KEY=VALUE once.")
    try:
      found[key] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      found[key] = {"true": True, "false": False}.get(text, text)
  return found


def parse_seeds(texts: Sequence[str]) -> tuple[int, ...]:
  """Seeds; ValueError for none, what is no number from 0 on, and a number that is repeated."""
  if not texts:
    raise ValueError("--seeds is empty: give numbers such as 0,1,2.")
  for place, text in enumerate(texts):
    if not (text.isascii() and text.isdigit()):
      raise ValueError(f"--seeds: {text!r} is no number from 0 on; expected such as 0,1,2.")
    if int(text) in map(int, texts[:place]):
      raise ValueError(f"--seeds: {int(text)} is given twice; each seed is one run of a row.")
  return tuple(map(int, texts))


def is_trained(order: Order, row: Row, seed: int) -> bool:
  """Whether a row's run is at its end."""
  return at_end(order.folder(row, seed), lambda: order.config(row, seed).num_steps)


def at_end(folder: str, num_steps: Callable[[], int]) -> bool:
  """Whether a run is at its last step; converted weights, of step 0, have no other."""
  step = latest_step(folder)
  return step is not None and (step == 0 or step == num_steps())


def evaluation(order: Order, row: Row, seed: int) -> dict[str, Any] | None:
  """The results of a row that is finished, None of any other."""
  trained = row if row.trains else order.parent(row)
  if not is_trained(order, trained, seed):
    return None
  if not row.trains and stale(order, row, seed):
    return None
  return results_of(order.folder(row, seed), order.folder(trained, seed))


def results_of(folder: str, run: str) -> dict[str, Any] | None:
  """What evaluation.json in a folder says of the newest checkpoint of a run; None if nothing.

  Results of earlier versions do not say their step, and are taken; those that `rkd-jax eval` was
  given other settings for are not.
  """
  file = storage.path(folder) / "evaluation.json"
  if not file.exists():
    return None
  results, step = read_object(file, "remove it, and the run is evaluated again"), latest_step(run)
  own = results.get("step", step) == step and not results.get("evaluated_with")
  return results if own else None


def stale(order: Order, row: Row, seed: int) -> dict[str, tuple[Any, Any]]:
  """What a row that does not train was evaluated with and is not now, with both values."""
  file = storage.path(order.folder(row, seed)) / "config.json"
  if not file.exists():
    return {"config.json": (None, "missing")}
  return differing(read_object(file), order.config(row, seed).to_dict())


def check(order: Order) -> None:
  """Sees what can be seen before anything is done.

  Raises ValueError:
    the root holds another recipe or other settings, has a ',' or a ':' in its name, a run is there
    with another config, was evaluated under other settings, or the run that it started from, or
    with `only` is to start from, is missing or not at its end.
  """
  if set(order.root.partition("://")[2] or order.root) & set(",="):
    raise ValueError(f"--root={order.root}: a name with ',' or '=' is no argument of a config.")
  _check_root(order)
  for row, seed in order.runs:
    folder, parent = order.folder(row, seed), order.parent(row)
    config = order.config(row, seed)
    there = row.trains and latest_step(folder) is not None
    if there and latest_step(folder) != 0:
      for note in check_config(folder, config):
        logging.warning(note)
      _check_evaluated(folder, config)
    if parent is None or (evaluation(order, row, seed) is not None and order.only):
      continue
    start = order.folder(parent, seed)
    if there and not is_trained(order, parent, seed):
      raise ValueError(
        f"{folder} has a checkpoint, but {start}, which it starts from, "
        f"{_how_far(order, parent, seed)}: bring it back, or remove {folder}, or give --only with "
        f"--rows={row.name} where it is finished."
      )
    for first in (parent, *map(order.recipe.row, row.after)) if order.only else ():
      if first not in order.rows and not is_trained(order, first, seed):
        raise ValueError(
          f"Row {row.name} starts from {order.folder(first, seed)}, which "
          f"{_how_far(order, first, seed)}: leave --only out to train {first.name} first."
        )
    if parent.trains and latest_step(start):
      check_config(start, order.config(parent, seed))


def _how_far(order: Order, row: Row, seed: int) -> str:
  step = latest_step(order.folder(row, seed))
  if step is None:
    return "is not there"
  return f"is at step {step} of {order.config(row, seed).num_steps}"


def _check_root(order: Order) -> None:
  file = storage.path(order.root) / FILE
  if not file.exists():
    return
  found = read_object(file, "remove it, and it is written anew")
  if found.get("recipe") != order.recipe.name:
    raise ValueError(
      f"{order.root} holds the recipe {found.get('recipe')!r}, asked for is {order.recipe.name!r}: "
      "give another --root."
    )
  before = {key: found.get(key) for key in ("settings", "arguments")}
  now = {"settings": dict(order.settings), "arguments": order.arguments}
  if changes := differences(before, now):
    shown = ", ".join(f"{key} ({old!r}, now {new!r})" for key, (old, new) in changes.items())
    raise ValueError(
      f"{order.root} was made with other settings of all rows: {shown}. Give the same, or another "
      "--root."
    )


def _check_evaluated(folder: str, config: ml_collections.ConfigDict) -> None:
  """Raises CheckpointError: a run has results, of other settings of the evaluation."""
  place = storage.path(folder)
  if not (place / "evaluation.json").exists() or not (place / "config.json").exists():
    return
  old = read_object(place / "config.json")
  for key, (before, now) in evaluated_otherwise(old, config.to_dict()).items():
    raise CheckpointError(
      f"{folder} was evaluated with {key}={before!r}, now it is {now!r}: give the same, another "
      "--root, or a row that does not train (docs/recipes.md), which evaluates it again."
    )


def read_object(file: Any, remedy: str = "remove it") -> dict[str, Any]:
  """The JSON object of a file, with tuples for lists; ValueError if it is damaged."""
  try:
    content = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f"{file} is damaged ({error}): {remedy}.") from error
  if not isinstance(content, dict):
    raise ValueError(f"{file} holds a {type(content).__name__}, expected an object: {remedy}.")
  return with_tuples(content)
