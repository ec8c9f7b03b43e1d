"""Reads the safetensors format: the length of a header in 8 bytes, the header in JSON, raw numbers.

The header may come from anyone, so nothing in it is believed: lengths, types, shapes and ranges are
checked against each other and against the file before an array is made.
"""

import json
import math
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

# As the format's own library allows.
_MAX_HEADER = 100_000_000

_DTYPES = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": np.dtype(jnp.bfloat16),
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
  "I16": np.dtype("<i2"),
  "I8": np.dtype("i1"),
  "U64": np.dtype("<u8"),
  "U32": np.dtype("<u4"),
  "U16": np.dtype("<u2"),
  "U8": np.dtype("u1"),
  "BOOL": np.dtype("?"),
}


def looks_like_safetensors(head: bytes) -> bool:
  """Whether the first bytes of a file are a length and the beginning of a JSON object."""
  return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def read(file: BinaryIO) -> dict[str, np.ndarray]:
  """Read-only arrays by name; bfloat16 stays bfloat16, metadata is dropped.

  Raises:
    ValueError: naming the entry, and what does not fit.
  """
  length = int.from_bytes(file.read(8), "little")
  if length > _MAX_HEADER:
    raise ValueError(f"the header has {length} bytes; at most {_MAX_HEADER} are allowed")
  text = file.read(length)
  if len(text) < length:
    raise ValueError(f"the header has {len(text)} of its {length} bytes; the file is cut off")
  header = _parse(text)
  header.pop("__metadata__", None)
  data = np.frombuffer(file.read(), np.uint8)
  arrays, ranges = {}, []
  for name, entry in header.items():
    dtype, shape, begin, end = _layout(name, entry)
    if end > len(data):
      raise ValueError(f"{name!r} ends at byte {end} of {len(data)}; the file is cut off")
    ranges.append((begin, end))
    arrays[name] = data[begin:end].view(dtype).reshape(shape)
  _check_tiling(ranges, len(data))
  return arrays


def _parse(text: bytes) -> dict[str, Any]:
  def unique(pairs):
    entries = dict(pairs)
    if len(entries) < len(pairs):
      raise ValueError("the header names an entry twice")
    return entries

  try:
    header = json.loads(text, object_pairs_hook=unique)
  except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
    raise ValueError(f"the header is not valid JSON ({error})") from error
  if not isinstance(header, dict):
    raise ValueError("the header is not a JSON object")
  return header


def _layout(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
  """Type, shape and byte range of an entry, in agreement with each other."""
  if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
    raise ValueError(f"{name!r}: expected dtype, shape and data_offsets")
  if entry["dtype"] not in _DTYPES:
    raise ValueError(f"{name!r}: dtype {entry['dtype']!r}; known are {', '.join(_DTYPES)}")
  dtype, shape, offsets = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
  for values in (shape, offsets):
    if not isinstance(values, list) or any(type(n) is not int or n < 0 for n in values):
      raise ValueError(f"{name!r}: shape {shape} and data_offsets {offsets} must be counts")
  size = math.prod(shape) * dtype.itemsize
  if len(offsets) != 2 or offsets[1] - offsets[0] != size:
    raise ValueError(f"{name!r}: {size} bytes of {dtype} {shape} cannot lie at {offsets}")
  return dtype, tuple(shape), *offsets


def _check_tiling(ranges: list[tuple[int, int]], total: int) -> None:
  position = 0
  for begin, end in sorted(ranges):
    if begin != position:
      raise ValueError(f"the entries overlap or leave a hole at byte {min(begin, position)}")
    position = end
  if position != total:
    raise ValueError(f"{total - position} bytes at the end belong to no entry")
