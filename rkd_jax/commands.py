"""How commands with absl flags start: `python -m rkd_jax.NAME`, or `rkd-jax NAME`."""

import logging as standard_logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections.config_dict import config_dict

from rkd_jax import configs
from rkd_jax.files.terminal import print_any_name
from rkd_jax.machine.compilation import return_memory_after_compiling

# What is defined here is a flag of the command that asks for it, also in its --help.
flags.disclaim_key_flags()
_PACKAGE = Path(__file__).parent
_UNSET = re.compile(r"--config\.[\w.]+=None")


def run(
  command: Callable[..., None], define_flags: Callable[[], None], with_arguments: bool = False
) -> None:
  """Runs a command: a function of the flags' values, and of what is no flag if it takes that.

  Flags are defined here rather than on import, since programs that import several commands would
  define some of them twice.  --config may be the name of a config (see `configs.locate`).
  """
  define_flags()

  def main(argv: Sequence[str]) -> None:
    if len(argv) > 1 and not with_arguments:
      raise app.UsageError(
        f"Unexpected argument {argv[1]!r}; settings are given as --config.key=value, and patterns "
        "and names with spaces are quoted."
      )
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(_is_not_said_otherwise)
    return_memory_after_compiling()
    print_any_name()
    config = flags.FLAGS.config if "config" in flags.FLAGS else None
    if config is not None:
      use(config, flags.FLAGS)
    try:
      command(flags.FLAGS, *([argv[1:]] if with_arguments else []))
    except (ValueError, OSError) as error:
      # What this package says itself is for whoever gave the command; where is of no interest.
      if Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(_PACKAGE):
        sys.exit(f"{type(error).__name__}: {error}")
      raise

  app.run(main, flags_parser=_parse)


def use(config: ml_collections.ConfigDict, given: flags.FlagValues) -> None:
  """Takes a config for this process: its cache of compiled programs, and what flags say beside."""
  if config.compilation_cache:
    jax.config.update("jax_compilation_cache_dir", config.compilation_cache)
  if "skip_bad_images" in given and given.skip_bad_images:
    config.skip_bad_images = True


def define_skip_flag() -> None:
  """The flag --skip_bad_images, the same in all commands; it sets the key of that name in a config.

  With it an image that cannot be decoded is left out with a counted warning, and is no error.
  """
  flags.DEFINE_bool("skip_bad_images", False, "Leave out images that cannot be decoded, and warn.")


def _parse(argv: Sequence[str]) -> list[str]:
  """absl's own parsing, after the name of a config became its file.

  `--config.key=None` is beyond it where the config has a value: that is set here.
  """
  unset = [a[len("--config.") : -len("=None")] for a in argv if _UNSET.fullmatch(a)]
  argv = [argument for argument in argv if not _UNSET.fullmatch(argument)]
  for place, argument in enumerate(argv[1:], start=1):
    flag, equals, value = argument.partition("=")
    if flag in ("--config", "-config"):
      try:
        if equals:
          argv[place] = f"{flag}={configs.locate(value)}"
        elif place + 1 < len(argv):
          argv[place + 1] = configs.locate(argv[place + 1])
      except ValueError as error:
        raise SystemExit(f"{error}") from error
  rest = app.parse_flags_with_usage(argv)
  for key in unset:
    _set_none(flags.FLAGS.config, key)
  return rest


def _set_none(config: ml_collections.ConfigDict, key: str) -> None:
  """Sets a setting to None; SystemExit for those that always have a value."""
  *above, name = key.split(".")
  try:
    for part in above:
      config = config[part]
    items: Any = config.items  # typed as that of a dictionary
    value = dict(items(preserve_field_references=True))[name]
  except (KeyError, AttributeError, TypeError) as error:
    raise SystemExit(f"--config.{key}=None: there is no setting {key}.") from error
  # Settings that may be without a value are made as placeholders.
  if not isinstance(value, config_dict.FieldReference):
    raise SystemExit(f"--config.{key}=None: it always has a value, such as {config[name]!r}.")
  config[name] = None


def _is_not_said_otherwise(record: standard_logging.LogRecord) -> bool:
  """False for the stacks that Orbax prints, one for each thread of a save that failed: the
  `Checkpointer` says it in a sentence.
  """
  return record.levelno < standard_logging.ERROR or ("orbax" not in record.pathname)
