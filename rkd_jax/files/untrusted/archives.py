"""Zip archives whose directory is not trusted, and the NumPy files in and outside them.

NumPy's reader claims the memory that a header asks for before it looks for the numbers, and
Python's reader of archives unfolds compressed entries as far as they go.  Here an entry is read to
the length that it states, which the file's allowance covers, and an array is a view of its bytes.
"""

import io
import math
import os
import re
import stat
import zipfile
from typing import IO

import numpy as np

from rkd_jax.files.untrusted.reading import (
  Allowance,
  ReadError,
  opening,
  quoted,
  reading,
  refuse_head,
  shown,
)

_MAGIC = b"\x93NUMPY"
# NumPy's own limit.
_MAX_HEADER = 10_000
# Where an archive says how long its directory is, and the longest one: of 100,000 entries.
_TAIL = 22 + 2**16
_MAX_DIRECTORY = 8_000_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADER = re.compile(
  r"'descr':\s*'(?P<descr>[^']*)'|'fortran_order':\s*(?P<order>True|False)"
  r"|'shape':\s*\((?P<shape>[\dL, ]*)\)"
)
_DTYPE = r"[<>|=]?(b1|[iu][1248]|f[248]|U[1-9]\d{0,6})"
_EXPECTED = "NumPy's .npz or .npy of plain numbers and texts"


class Archive:
  """A zip archive, entry by entry.

  Raises ReadError where its directory is not that of an honest file: an entry twice, outside the
  archive's folder, beyond the file's end, encrypted, a link, or of an unusual compression.  Other
  errors are those of `zipfile`.
  """

  def __init__(self, file: IO[bytes], allowance: Allowance):
    self._allowance = allowance
    _check_directory(file, allowance)
    self._archive = zipfile.ZipFile(file)
    self._entries: dict[str, zipfile.ZipInfo] = {}
    for entry in self._archive.infolist():
      where = f"{allowance.path}: the entry {quoted(entry.filename)}"
      if entry.filename in self._entries:
        raise ReadError(f"{where} is there twice: no program writes such a file. Fetch it again.")
      parts = entry.filename.replace("\\", "/").split("/")
      if ".." in parts or parts[0] == "" or re.match("[A-Za-z]:$", parts[0]):
        raise ReadError(f"{where} lies outside the archive. Do not use this file.")
      if stat.S_ISLNK(entry.external_attr >> 16):
        raise ReadError(f"{where} is a link, not data. Pack the file that it points to.")
      self._entries[entry.filename] = entry

  @property
  def names(self) -> list[str]:
    """The names of all entries."""
    return list(self._entries)

  def read(self, name: str) -> bytes:
    """The content of an entry; ReadError if it is not there or asks for too much."""
    where = f"{self._allowance.path}: the entry {quoted(name)}"
    if (entry := self._entries.get(name)) is None:
      raise ReadError(f"{where} is missing: the file is incomplete. Fetch it again.")
    if entry.flag_bits & 1 or entry.compress_type not in _METHODS:
      raise ReadError(f"{where} is encrypted or of an unusual compression. Pack it without.")
    is_stored = entry.compress_type == zipfile.ZIP_STORED
    beyond = entry.header_offset + entry.compress_size > self._allowance.size
    if beyond or (is_stored and entry.compress_size != entry.file_size):
      raise ReadError(f"{where} reaches beyond the file: it is truncated. Fetch it again.")
    self._allowance.take(entry.file_size, f"{quoted(name)} of {entry.file_size:,} bytes")
    # No more than stated: what a compressed entry unfolds to is not known before.
    with self._archive.open(entry) as file:
      data = file.read(entry.file_size)
    if len(data) != entry.file_size:
      raise ReadError(f"{where} ends too early: the file is truncated. Fetch it again.")
    return data


def _check_directory(file: IO[bytes], allowance: Allowance) -> None:
  """Refuses a directory that would take hundreds of megabytes to list."""
  file.seek(max(0, allowance.size - _TAIL))
  tail = file.read(_TAIL)
  size = int.from_bytes(tail[(at := tail.rfind(b"PK\5\6")) + 12 : at + 16], "little")
  if at >= 0 and _MAX_DIRECTORY < size < 2**32 - 1:
    raise ReadError(
      f"{allowance.path} has a directory of {size:,} bytes; expected at most {_MAX_DIRECTORY:,}."
    )


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray] | np.ndarray:
  """The arrays of an .npz by name, or the array of an .npy: numbers and texts, read-only.

  Raises:
    ReadError: the file is damaged, holds something else, or asks for more than it holds.
    FileNotFoundError: there is no such file.
  """
  with opening(path, _EXPECTED, "file of arrays") as (file, head, allowance):
    return _arrays_in(file, head, allowance)


def read_arrays_of(data: bytes, path: str | os.PathLike) -> dict[str, np.ndarray] | np.ndarray:
  """The same from the bytes of a file that lies elsewhere; `path` is what errors call it."""
  with reading(path, _EXPECTED, "file of arrays"):
    return _arrays_in(io.BytesIO(data), data[:262], Allowance(path, len(data)))


def _arrays_in(
  file: IO[bytes], head: bytes, allowance: Allowance
) -> dict[str, np.ndarray] | np.ndarray:
  refuse_head(allowance.path, head)
  if head.startswith(b"PK"):
    return arrays_of(Archive(file, allowance), allowance)
  if head.startswith(_MAGIC):
    return array_of(file.read(), "its array", allowance)
  raise ReadError(f"{allowance.path} is neither .npz nor .npy; expected {_EXPECTED}.")


def arrays_of(archive: Archive, allowance: Allowance) -> dict[str, np.ndarray]:
  """The arrays of an .npz by name; raises ReadError, or ValueError for a damaged one."""
  if others := [name for name in archive.names if not name.endswith(".npy")]:
    raise ReadError(
      f"{allowance.path} is a zip file with the entry {quoted(others[0])}; expected .npy alone."
    )
  return {
    name.removesuffix(".npy"): array_of(archive.read(name), name, allowance)
    for name in archive.names
  }


def array_of(data: bytes, name: str, allowance: Allowance) -> np.ndarray:
  """The array of an .npy's bytes, whose header must describe exactly what follows it.

  Raises:
    ReadError: an array of objects or records, or one that asks for more than there is.
    ValueError: no header of such a file.
  """
  if not data.startswith(_MAGIC) or data[6:7] not in (b"\1", b"\2", b"\3"):
    raise ValueError(f"{quoted(name)} does not begin as an .npy file")
  width = 2 if data[6] == 1 else 4
  start, length = 8 + width, int.from_bytes(data[8 : 8 + width], "little")
  if length > min(_MAX_HEADER, len(data) - start):
    raise ValueError(f"{quoted(name)} has a header of {length:,} bytes, or is cut off within it")
  text = data[start : start + length].decode("latin1")
  found: dict[str, str] = {}
  for match in _HEADER.finditer(text):
    if match.lastgroup in found:
      raise ValueError(f"the header of {quoted(name)} says its {match.lastgroup} twice")
    found[match.lastgroup or ""] = match[match.lastgroup or 0]
  left = re.sub(r"[\s,]", "", _HEADER.sub("", text))
  where = f"{allowance.path}: {quoted(name)}"
  if re.search(r"'descr':\s*[\[(]", text) or "O" in found.get("descr", ""):
    raise ReadError(f"{where} holds objects or records. Expected plain numeric arrays.")
  if len(found) != 3 or left != "{}":
    raise ValueError(f"the header of {quoted(name)} is {quoted(text)}")
  if not re.fullmatch(_DTYPE, found["descr"]):
    raise ReadError(f"{where} has the type {quoted(found['descr'])}. Expected plain numbers.")
  dtype = np.dtype(found["descr"])
  parts = [part.strip().removesuffix("L") for part in found["shape"].split(",")]
  lengths = [part for part in parts if part]
  if len(lengths) > 64 or not all(part.isdigit() and len(part) < 19 for part in lengths):
    raise ValueError(f"{quoted(name)} has the shape ({shown(found['shape'])})")
  shape = tuple(map(int, lengths))
  allowance.take_shape(shape, 1, f"{quoted(name)} of shape {shown(shape)}")
  count, there = math.prod(shape), len(data) - start - length
  if count * dtype.itemsize != there:
    raise ReadError(
      f"{where} has {there:,} bytes, its header asks for {count * dtype.itemsize:,} (shape"
      f" {shown(shape)} of {dtype}): it is truncated or corrupt. Fetch it again."
    )
  array = np.frombuffer(data, dtype, count, start + length) if count else np.zeros(0, dtype)
  if dtype.kind == "U" and not _are_texts(array):
    raise ReadError(f"{where} holds texts with impossible letters: it is corrupt. Fetch it again.")
  fortran = found["order"] == "True"
  array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
  if dtype.isnative:
    return array
  allowance.take(array.nbytes, f"{quoted(name)} in another byte order")
  return array.astype(dtype.newbyteorder("="))


def _are_texts(array: np.ndarray) -> bool:
  """Whether all letters are of Unicode; Python's texts are made of them without a check."""
  letters = array.view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
  return bool(((letters < 0xD800) | ((letters > 0xDFFF) & (letters < 0x110000))).all())
