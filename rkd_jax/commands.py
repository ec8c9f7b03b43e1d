"""How commands with absl flags start: `python -m rkd_jax.NAME`, or `rkd-jax NAME`."""

from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from rkd_jax import configs
from rkd_jax.files.terminal import print_any_name
from rkd_jax.machine.compilation import return_memory_after_compiling

# What is defined here is a flag of the command that asks for it, also in its --help.
flags.disclaim_key_flags()


def run(command: Callable[[flags.FlagValues], None], define_flags: Callable[[], None]) -> None:
  """Runs a command: a function of the flags' values.

  Flags are defined here rather than on import, since programs that import several commands would
  define some of them twice.  --config may be the name of a config (see `configs.locate`).
  """
  define_flags()

  def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(
        f"Unexpected argument {argv[1]!r}; settings are given as --config.key=value, and patterns "
        "and names with spaces are quoted."
      )
    logging.set_verbosity(logging.WARNING)
    return_memory_after_compiling()
    print_any_name()
    config = flags.FLAGS.config if "config" in flags.FLAGS else None
    if config is not None and config.compilation_cache:
      jax.config.update("jax_compilation_cache_dir", config.compilation_cache)
    if config is not None and "skip_bad_images" in flags.FLAGS and flags.FLAGS.skip_bad_images:
      config.skip_bad_images = True
    command(flags.FLAGS)

  app.run(main, flags_parser=_parse)


def define_skip_flag() -> None:
  """The flag --skip_bad_images, the same in all commands; it sets the key of that name in a config.

  With it an image that cannot be decoded is left out with a counted warning, and is no error.
  """
  flags.DEFINE_bool("skip_bad_images", False, "Leave out images that cannot be decoded, and warn.")


def _parse(argv: Sequence[str]) -> list[str]:
  """absl's own parsing, after the name of a config became its file."""
  argv = list(argv)
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
  return app.parse_flags_with_usage(argv)
