"""The settings of every row of the paper's tables, and how a command finds one by name."""

import os
import runpy
from pathlib import Path

import ml_collections

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
  """Names of all configs, such as 'coco/rkd', sorted."""
  files = (path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.py"))
  return tuple(sorted(p.as_posix() for p in files if p.name not in ("__init__", "common")))


def locate(value: str) -> str:
  """Turns what --config is given into 'FILE' or 'FILE:ARGUMENT'.

  A file that exists is left as it is; otherwise 'coco/rkd', 'coco/rkd.py' and 'configs/coco/rkd.py'
  all name the config of this package, from whatever folder.

  Raises:
    ValueError: neither a file nor a name.
  """
  path, colon, argument = value.partition(":")
  if os.path.isfile(path):
    return value
  name = path.removeprefix("configs/").removesuffix(".py")
  if name not in names():
    raise ValueError(
      f"--config={path}: there is no such file, and no config has this name. "
      f"Names: {', '.join(names())}."
    )
  return f"{FOLDER / name}.py{colon}{argument}"


def load(value: str) -> ml_collections.ConfigDict:
  """The config that --config=VALUE would have, locked.

  Raises:
    ValueError: as `locate`.
  """
  file, _, argument = locate(value).partition(":")
  get_config = runpy.run_path(file)["get_config"]
  return (get_config(argument) if argument else get_config()).lock()
