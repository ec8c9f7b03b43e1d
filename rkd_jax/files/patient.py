"""Files that grow while a program runs, and that a full disk or a lost mount does not stop."""

import os
from pathlib import Path

from absl import logging


class PatientFile:
  """A file that is appended to, at once and without a buffer.

  What cannot be written is said once, kept in memory and tried again with what comes next.
  """

  def __init__(self, path: str | os.PathLike):
    self._path = Path(path)
    self._file: int | None = None
    self._pending = bytearray()
    self._said = False

  def write(self, content: bytes) -> None:
    self._pending += content
    self._try()

  def flush(self) -> None:
    self._try()

  def close(self) -> None:
    """Raises OSError if something is left that cannot be written."""
    try:
      error = self._try()
    finally:
      if self._file is not None:
        os.close(self._file)
        self._file = None
    if error:
      raise OSError(
        f"{self._path}: the last {len(self._pending):,} bytes could not be written ({error})."
      ) from error

  def _try(self) -> OSError | None:
    try:
      if self._file is None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
      while self._pending:
        del self._pending[: os.write(self._file, self._pending)]
    except OSError as error:
      if not self._said:
        logging.error("%s cannot be written: %s. It is kept, and tried again.", self._path, error)
      self._said = True
      return error
    self._said = False
    return None
