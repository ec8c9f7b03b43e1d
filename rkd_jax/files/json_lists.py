"""Reads JSON files of long lists, entry by entry: the 'images' and 'annotations' of COCO.

A list is split into the bytes of its entries, each of which is decoded to a typed struct and let
go.  Where the types do not fit, `json_values` says what may stand for them.
"""

import codecs
import collections
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from rkd_jax.files import json_values as values

_Kind = TypeVar("_Kind", bound=msgspec.Struct)
_CHUNK = 2**24
# Texts, and beside them what Python and others write though JSON has no such values.
_NO_JSON = re.compile(
  rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?\b(?:NaN|Infinity)\b|(?<![\w.+-])-?\d[\d.]*(?:[eE]\+?\d{3,}|\d{300})',
  re.DOTALL,
)
_KEY = re.compile(rb'\s*[{,]\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*', re.DOTALL)
_BYTE = re.compile(r" ?\(byte (\d+)\)")


def read_bytes(path: str | os.PathLike) -> bytes:
  """The bytes of a text file in UTF-8, without the mark that spreadsheets put at the beginning.

  Raises ValueError: it cannot be read, or is anything else.
  """
  try:
    data = Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
  if data.startswith((b"\x1f\x8b", b"PK\x03\x04")):
    raise ValueError(f"{path} is an archive, not a text file: unpack it, and give what is in it.")
  if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
    raise ValueError(f"{path} is not a text file in UTF-8, perhaps in UTF-16: convert it.")
  decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(data)
  # Of the whole at once there would be a copy, four times as large.
  for start in range(0, 0 if data.isascii() else len(data), _CHUNK):
    try:
      decoder.decode(view[start : start + _CHUNK], start + _CHUNK >= len(data))
    except UnicodeDecodeError as error:
      line = data.count(b"\n", 0, start + error.start) + 1
      raise ValueError(
        f"{path} is not a text file in UTF-8: line {line} has {error.reason}. Convert it."
      ) from error
  return data.removeprefix(codecs.BOM_UTF8)


class Problems:
  """What is wrong with a file, to be said at once: the first of it, and how much there is."""

  def __init__(self, path: str | os.PathLike, shown: int = 20):
    self._path, self._shown = path, shown
    self._messages, self._more = [], collections.Counter()

  def add(self, what: str, message: str) -> None:
    """Adds a message that names file, entry and remedy, of a kind that is counted as `what`."""
    if len(self._messages) < self._shown:
      self._messages.append(message)
    else:
      self._more[what] += 1

  def __bool__(self) -> bool:
    return bool(self._messages)

  def check(self) -> None:
    """Raises a ValueError of all that was added, if anything was."""
    if len(self._messages) <= 1:
      if self._messages:
        raise ValueError(self._messages[0])
      return
    count = len(self._messages) + self._more.total()
    lines = [f"{self._path} has {count:,} problems:", *self._messages]
    if self._more:
      kinds = ", ".join(f"{number:,} of {what}" for what, number in self._more.most_common())
      lines.append(f"and {self._more.total():,} more: {kinds}")
    raise ValueError("\n  ".join(lines))


def _marked(data: Any) -> bytes:
  """The data with `json_values.MARK` objects for NaN, Infinity, 1e999 and halves of characters."""

  def mark(match: re.Match) -> bytes:
    text = match[0]
    if text.startswith(b'"'):
      if b"\\ud" not in text.lower():
        return text
      try:
        json.loads(text, strict=False).encode()
        return text
      except json.JSONDecodeError:
        return text
      except UnicodeEncodeError:
        pass
    elif text[-1:].isdigit() and math.isfinite(float(text)):
      return text
    return json.dumps({values.MARK: text.decode("utf-8", "replace")[:80]}).encode()

  return _NO_JSON.sub(mark, bytes(data))


def _repeated_key(data: Any, pieces: Mapping[str, msgspec.Raw]) -> str | None:
  """A key that an object has twice, of which `pieces` can only have the last value."""
  start = np.frombuffer(data, np.uint8).ctypes.data
  parts = (np.frombuffer(piece, np.uint8) for piece in pieces.values())
  spans = sorted((part.ctypes.data - start, len(part)) for part in parts)
  end = 0
  for offset, size in spans:
    # Between two values there is one key, unless a value was replaced.
    gap = bytes(memoryview(data)[end:offset])
    key = _KEY.match(gap)
    if key and key.end() != len(gap):
      return json.loads(key[1])
    end = offset + size
  return None


class Document:
  """A JSON file whose content is a list, or an object that has some; values are decoded by need.

  Attributes:
    path: of the file.
    problems: of the entries that were gone through; raise them by `problems.check()`.
    notes: how many values were odd, and read without a loss, by what was odd.
    places: what problems call the annotation at a position, where it stands in another file.
  """

  def __init__(self, path: str | os.PathLike, data: bytes | None = None):
    """Reads and splits the file; ValueError if it is missing or no JSON, or has a key twice.

    With `data` that is its content, and the path is only what messages call it.
    """
    self.path = Path(path)
    self.problems = Problems(path)
    self.notes = collections.Counter()
    self.places: Mapping[int, str] = {}
    self._is_marked = False
    data = read_bytes(path) if data is None else data
    try:
      data, top = self._split(data)
    except RecursionError as error:
      raise ValueError(
        f"{path} has lists or objects nested too deeply for annotations: correct it."
      ) from error
    if isinstance(top, dict) and (twice := _repeated_key(data, top)):
      raise ValueError(f"{path} has {twice!r} twice: keep one, or join the two.")
    # Of a file that is a list itself, and of one that is an object.
    self._list = top if isinstance(top, list) else None
    self._values = top if isinstance(top, dict) else {}

  def _split(self, data: bytes) -> tuple[bytes, dict[str, msgspec.Raw] | list[msgspec.Raw]]:
    kind = dict[str, msgspec.Raw] | list[msgspec.Raw]
    try:
      return data, msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
      raise ValueError(
        f"{self.path} is neither an object nor a list: COCO format has an object with 'images', "
        "'annotations' and 'categories'."
      ) from None
    except msgspec.DecodeError as error:
      first = error
    self._is_marked = True
    try:
      marked = _marked(data)
      return marked, msgspec.json.decode(marked, type=kind)
    except msgspec.DecodeError:
      found = _BYTE.search(str(first))
      byte = int(found[1]) if found else len(data)
      line, column = data.count(b"\n", 0, byte) + 1, byte - data.rfind(b"\n", 0, byte)
      raise ValueError(
        f"{self.path} is not valid JSON: line {line}, column {column}: "
        f"{_BYTE.sub('', str(first))}. "
        "Correct it there; if it is the end of the file, the file may be cut off."
      ) from first

  def has(self, key: str) -> bool:
    """Whether there is anything under `key`."""
    return key in self._values

  @property
  def is_list(self) -> bool:
    """Whether the file is a list rather than an object."""
    return self._list is not None

  def raw(self, key: str) -> list[msgspec.Raw]:
    """The undecoded entries of the list under `key`; none, and a problem, where there is no list.

    Where the file is a list, `key` does not matter.
    """
    if self._list is not None:
      return self._list
    if key not in self._values:
      self.problems.add(key, f"{self.path} has no {key!r}, COCO format asks for it.")
      return []
    try:
      return msgspec.json.decode(self._values[key], type=list[msgspec.Raw])
    except msgspec.ValidationError:
      found = values.shown(self._plain(self._values[key]))
      self.problems.add(key, f"{self.path}: {key!r} is {found}, COCO format has a list.")
      return []

  def entries(
    self,
    key: str,
    kind: type[_Kind],
    name: Callable[[int, Mapping[str, Any]], str] | None = None,
  ) -> Iterator[tuple[int, _Kind]]:
    """Position and content of each entry of the list under `key`; what does not fit is a problem.

    Args:
      key: of the list.
      kind: a struct whose fields are of the kinds of `json_values`.
      name: of position and plain content of an entry that does not fit: what problems call it.
    """
    decode = msgspec.json.Decoder(kind).decode
    # What stands for no JSON value is an object, as run lengths are.
    mark = f'"{values.MARK}"'.encode() if self._is_marked else None
    keys = [field.encode_name for field in msgspec.structs.fields(kind)]
    repeats = re.compile(rf'"(?:{"|".join(keys)})"\s*:'.encode()).findall
    for number, raw in enumerate(self.raw(key)):
      data = bytes(raw)
      found = repeats(data)
      suspect = len(found) != len(set(found)) or b"\\" in data
      if suspect and (twice := self._twice(data)):
        self.problems.add(key, f"{self.path}: {key}[{number}] has {twice!r} twice: keep one.")
        continue
      try:
        entry = None if mark and mark in data else decode(data)
      except msgspec.DecodeError:
        entry = None
      if entry is None:
        entry = self._lenient(data, kind, key, number, name)
      if entry is not None:
        yield number, entry

  def _twice(self, data: bytes) -> str | None:
    try:
      return _repeated_key(data, msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
    except msgspec.DecodeError:
      return None

  def _plain(self, raw: Any) -> Any:
    try:
      return msgspec.json.decode(raw)
    except msgspec.DecodeError:
      return msgspec.json.decode(_marked(raw))

  def _lenient(
    self, data: bytes, kind: type[_Kind], key: str, number: int, name: Callable | None
  ) -> _Kind | None:
    """An entry whose types do not fit, if that loses nothing; else None, and its problems."""
    where = f"{self.path}: {key}[{number}]"
    entry = self._plain(data)
    if name is not None and isinstance(entry, dict):
      where = name(number, entry)
    if not isinstance(entry, dict):
      self.problems.add(key, f"{where} is {values.shown(entry)}, expected an object: remove it.")
      return None
    fields = msgspec.structs.fields(kind)
    needed = [field.encode_name for field in fields if field.required]
    if missing := [own for own in needed if own not in entry]:
      self.problems.add(
        key,
        f"{where} has no {', '.join(map(repr, missing))}: COCO format asks for "
        f"{', '.join(needed)}.",
      )
      return None
    found, failed = {}, False
    for field in fields:
      own = field.encode_name
      if own not in entry:
        continue
      odd = set()
      try:
        found[field.name] = values.READERS[field.type](entry[own], odd)
      except values.RefusedError as error:
        failed = True
        wrong = error.value if error.part else entry[own]
        self.problems.add(
          own,
          f"{where}: {own}{error.part} is {values.shown(wrong)}, expected {error.expected}: "
          "correct or remove it.",
        )
      else:
        self.notes.update(f"{key} with {own} {what}" for what in odd)
    return None if failed else kind(**found)
