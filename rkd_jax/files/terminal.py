"""What commands print."""

import io
import sys


def print_any_name() -> None:
  """Makes standard output print what it has no characters for as \\xNN or \\udcNN.

  Names of files and classes are the user's: one that the terminal cannot show must not end a run.
  Python does so for standard error.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")
