"""What holds for every file that somebody else wrote: it is refused in words, and never trusted.

A file may ask for memory in proportion to its own size (`Allowance`); whatever goes wrong while it
is read is a `ReadError` that names it (`reading`); and what is no file of arrays at all, such as
the page of a web site that was saved in its place, is told apart by how it begins (`refuse_head`).
"""

import contextlib
import os
import reprlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

# What a file may ask for, in bytes of its own, and what a small one may have in any case.
_FACTOR = 16
_SLACK = 1 << 20

# As many bytes as it takes to know a tar archive.
_HEAD = 262
_FETCH = "Fetch it again"
# How files begin that are taken for weights, and what to do with them.
_HEADS = (
  (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file: git lfs pull"),
  (b"\x1f\x8b", "compressed by gzip: unpack it first (gunzip)"),
  (b"\xfd7zXZ\0", "compressed by xz: unpack it first (unxz)"),
  (b"BZh", "compressed by bzip2: unpack it first (bunzip2)"),
  (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first (unzstd)"),
  (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"),
  (b"Rar!", "a RAR archive: unpack it first"),
  (b"\x89HDF", "an HDF5 file (Keras): save its arrays with numpy.savez"),
  (b"GGUF", "a GGUF file, whose numbers are quantised: give the original weights"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--")


class ReadError(ValueError):
  """A file is damaged, of another format, or asks for more than arrays."""


class Allowance:
  """Memory that a file may still ask for: 16 times its own size, and 1 MiB in any case.

  Compressed entries, views and calls in a pickle can multiply what the file holds; each takes its
  bytes from here before it is made.
  """

  def __init__(self, path: str | os.PathLike, size: int):
    self.path = os.fspath(path)
    self.size = size
    self._left = _FACTOR * size + _SLACK

  def take(self, count: int, what: str) -> None:
    """Takes bytes for `what`; raises ReadError where they are more than what is left."""
    if count > self._left:
      raise ReadError(
        f"{self.path} has {self.size:,} bytes, and asks for more than {_FACTOR} times as many:"
        f" {what}. Save plain arrays, uncompressed and each once."
      )
    self._left -= count

  def take_shape(self, shape: tuple[int, ...], itemsize: int, what: str) -> None:
    """Takes the bytes of an array; dimensions count where others are zero, too."""
    count = itemsize
    for length in shape:
      count *= max(length, 1)
      if count > self._left:  # The product of many large ones would take long.
        break
    self.take(count, what)


@contextlib.contextmanager
def reading(path: str | os.PathLike, expected: str, what: str = "checkpoint") -> Iterator[None]:
  """Turns whatever goes wrong inside into a ReadError that names the file and what was expected.

  Files fail in any way: what is damaged runs into every check of every library below.
  """
  try:
    yield
  except ReadError:
    raise
  except MemoryError:
    raise ReadError(f"{path} needs more memory than there is. Expected {expected}.") from None
  except RecursionError:
    raise ReadError(f"{path} nests its content too deeply. Expected {expected}.") from None
  except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
    reason = shown(str(error), 200)
    raise ReadError(f"{path} is truncated or corrupt ({reason}). {_FETCH}.") from error
  except Exception as error:
    reason = f"{type(error).__name__}: {shown(str(error), 200)}"
    raise ReadError(
      f"{path} is no readable {what}: {reason}. Expected {expected}. {_FETCH}."
    ) from error


@contextlib.contextmanager
def opening(
  path: str | os.PathLike, expected: str, what: str = "checkpoint"
) -> Iterator[tuple[IO[bytes], bytes, Allowance]]:
  """Opens a file that is not trusted: the file, how it begins, and what it may ask for.

  Raises:
    ReadError: what `reading` and `refuse_head` do, or the path is that of a folder or a device.
    FileNotFoundError: there is no such file.
  """
  path = os.fspath(path)
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise ReadError(f"{path} is a folder or a device, not a file. Expected {expected}.")
  with open(path, "rb") as file, reading(path, expected, what):
    allowance = Allowance(path, os.fstat(file.fileno()).st_size)
    head = file.read(_HEAD)
    file.seek(0)
    yield file, head, allowance


def refuse_head(path: str | os.PathLike, head: bytes) -> None:
  """Refuses a file by its first bytes where they are known; raises ReadError with what it is."""
  if not head:
    raise ReadError(f"{path} is empty: the download or the copy did not finish. {_FETCH}.")
  if not head.strip(b"\0"):
    raise ReadError(f"{path} begins with zeros alone: it was not written to its end. {_FETCH}.")
  for start, what in _HEADS:
    if head.startswith(start):
      raise ReadError(f"{path} is {what}.")
  text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
  if text.lower().startswith(_PAGES):
    raise ReadError(
      f"{path} is a web page (it begins with {shown(text.decode('latin1'), 40)}), not a file of"
      " weights: the site answered with a page. Download the file itself."
    )
  if text.startswith(b"{") and text[1:].lstrip()[:1] in (b'"', b"}"):
    raise ReadError(
      f"{path} is JSON (it begins with {shown(text.decode('latin1'), 40)}), not a file of weights."
      " Give the file that it stands beside, or download again if it is a message of the site."
    )


class _Short(reprlib.Repr):
  """Shows containers in part, numbers, and the kind of everything else: no object shows itself."""

  def __init__(self):
    super().__init__()
    self.maxlevel, self.maxtuple, self.maxlist, self.maxdict, self.maxset = 2, 8, 8, 4, 4

  def repr_instance(self, x: Any, level: int) -> str:
    if type(x) in (float, bool, type(None)):
      return repr(x)
    return repr(x[:20]) if type(x) is bytes else f"a {type(x).__name__}"


def shown(value: Any, length: int = 60) -> str:
  """A value as errors show it, short whatever it is; a text as it is, up to `length`."""
  if isinstance(value, str):
    return value if len(value) <= length else f"{value[:length]}..."
  try:
    return _Short().repr(value)[: 2 * length]
  except ValueError:  # An integer of more digits than Python prints.
    return f"a {type(value).__name__} too long to print"


def quoted(value: Any) -> str:
  """A value as `shown`, a text in quotes."""
  return repr(shown(value)) if isinstance(value, str) else shown(value)
