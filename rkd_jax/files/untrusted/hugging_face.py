"""Files of Hugging Face: .safetensors, and models in several parts with an index of them."""

import json
import os
import re
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.numpy

from rkd_jax.files.json_checks import read_json
from rkd_jax.files.untrusted.reading import Allowance, ReadError, quoted, reading, shown

# Of 60,000 arrays, more than any network here has.
_MAX_HEADER = 8_000_000
_WHOLES = ("model.safetensors", "pytorch_model.bin")
_INDEXES = tuple(f"{name}.index.json" for name in _WHOLES)


def published_file(path: str | os.PathLike) -> str:
  """The path of a file, or in a folder that of the model, or of the index of its parts.

  Raises ReadError: a folder with none of them.
  """
  path = os.fspath(path)
  if not os.path.isdir(path):
    return path
  for name in (*_WHOLES, *_INDEXES):
    if os.path.isfile(os.path.join(path, name)):
      return os.path.join(path, name)
  raise ReadError(f"{path} is a folder with none of {', '.join((*_WHOLES, *_INDEXES))}.")


def is_published(path: str | os.PathLike) -> bool:
  """Whether a path is a file, or a folder as Hugging Face has it."""
  return os.path.isfile(path) or any(
    os.path.isfile(os.path.join(path, name)) for name in (*_WHOLES, *_INDEXES)
  )


def is_index(path: str) -> bool:
  """Whether a file is, by its name, the index of a model in parts."""
  return path.endswith(".index.json")


def parts_of(path: str) -> dict[str, set[str]]:
  """The files that an index lists, in its folder, each with the names of the arrays in it.

  Raises ReadError: it is no such index, or a part is not there.
  """
  with reading(path, "an index of Hugging Face, with a 'weight_map'"):
    content = read_json(path)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
      raise ReadError(f"{path} has no 'weight_map'; expected the index of a model in parts.")
    parts: dict[str, set[str]] = {}
    for name, file in found.items():
      if not isinstance(file, str) or not re.fullmatch(r"[\w][\w.-]*", file):
        raise ReadError(
          f"{path}: {quoted(name)} is in {quoted(file)}; expected a file beside the index."
        )
      parts.setdefault(file, set()).add(name)
    for file in parts:
      if not Path(path).with_name(file).is_file():
        raise ReadError(f"{path} lists {file}, which is not beside it. Fetch all {len(parts)}.")
  return {os.fspath(Path(path).with_name(file)): names for file, names in parts.items()}


def is_safetensors(head: bytes) -> bool:
  """Whether a file begins as .safetensors do: a length below 2**40, and JSON."""
  return head[5:9] == b"\0\0\0{"


def read_safetensors(file: IO[bytes], allowance: Allowance) -> dict[str, np.ndarray]:
  """The arrays of an open file; raises ReadError, or the errors of the library.

  The library checks that the arrays fill the file, one beside the other.  Before it may, the length
  of the header is compared with the file's, and a name must not be there twice.
  """
  size = allowance.size
  length = int.from_bytes(file.read(8), "little")
  if length > size - 8:
    raise ReadError(
      f"{allowance.path} announces a header of {length:,} bytes and has {size - 8:,} more: it is"
      " truncated. Fetch it again."
    )
  if length > _MAX_HEADER:
    raise ReadError(
      f"{allowance.path} has a header of {length:,} bytes; expected at most {_MAX_HEADER:,}."
    )
  try:
    header = json.loads(file.read(length), object_pairs_hook=_once)
    ends = [0]
    for name, entry in header.items():
      if name != "__metadata__":
        shape, (_, end) = entry["shape"], entry["data_offsets"]
        if 0 in shape:  # The library compares the others with their bytes.
          allowance.take_shape(tuple(shape), 1, f"{quoted(name)} of shape {shown(shape)}")
        ends.append(end)
    if max(ends) > size - 8 - length:
      raise ReadError(
        f"{allowance.path} is no readable safetensors file: it ends after {size:,} of"
        f" {max(ends) + 8 + length:,} bytes. Fetch it again."
      )
    return safetensors.numpy.load_file(allowance.path)
  except ReadError:
    raise
  except (RecursionError, MemoryError):
    raise
  except Exception as error:  # Or a type that NumPy lacks.
    raise ReadError(
      f"{allowance.path} is no readable safetensors file: {shown(str(error), 200)}. Fetch it again."
    ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("a name is there twice")
  return found
