"""Writes files that torch reads, without torch: state dicts, and pickles that hold tensors.

What `restricted` reads, and nothing that torch's own restricted unpickler would refuse in a state
dict.  Globals are written by hand, because the pickler would want to import them.
"""

import math
import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from rkd_jax.files import storage
from rkd_jax.files.untrusted.tensors import LEGACY_MAGIC, STORAGES

_KINDS = {dtype: kind for kind, dtype in STORAGES.items()}


def write_pth(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays by name so that `torch.load(path, weights_only=True)` gives a dict of tensors.

  Same arrays, same bytes.  Raises ValueError: an array has a type that torch has no storage for.
  """
  contiguous = {name: np.asarray(value, order="C") for name, value in arrays.items()}
  for name, value in contiguous.items():
    if value.dtype not in _KINDS:
      known = ", ".join(map(str, _KINDS))
      raise ValueError(f"{name!r} has dtype {value.dtype}; expected one of {known}.")

  parts = [pickle.PROTO + b"\x02", pickle.EMPTY_DICT, pickle.MARK]
  for key, (name, value) in enumerate(contiguous.items()):
    parts += [_plain(name), _tensor(value, _storage(value, str(key)))]
  parts += [pickle.SETITEMS, pickle.STOP]

  with storage.writing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
    # ZipInfo: without it the entries would carry the time of day.
    archive.writestr(zipfile.ZipInfo("archive/data.pkl"), b"".join(parts))
    archive.writestr(zipfile.ZipInfo("archive/byteorder"), b"little")
    for key, value in enumerate(contiguous.values()):
      little = value.astype(value.dtype.newbyteorder("<"), copy=False)
      archive.writestr(zipfile.ZipInfo(f"archive/data/{key}"), little.tobytes())
    archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")


def pickle_tensors(value: list | tuple | np.ndarray | Any) -> bytes:
  """A pickle for `pickle.load` beside torch: arrays, also in lists and tuples, are tensors."""
  return pickle.PROTO + b"\x03" + _with_tensors(value) + pickle.STOP


def _with_tensors(value: Any) -> bytes:
  if isinstance(value, np.ndarray):
    value = np.asarray(value, order="C")
    load = _global("torch.storage", "_load_from_bytes") + _plain(_storage_bytes(value), 3)
    return _tensor(value, load + pickle.TUPLE1 + pickle.REDUCE)
  if type(value) not in (list, tuple):
    return _plain(value)
  items = b"".join(map(_with_tensors, value))
  if type(value) is tuple:
    return pickle.MARK + items + pickle.TUPLE
  return pickle.EMPTY_LIST + pickle.MARK + items + pickle.APPENDS


def _tensor(value: np.ndarray, storage: bytes) -> bytes:
  """Opcodes of a tensor, given those of its storage."""
  return b"".join(
    (
      *(_global("torch._utils", "_rebuild_tensor_v2"), pickle.MARK, storage),
      *(_plain(0), _plain(value.shape), _plain(_strides(value.shape)), pickle.NEWFALSE),
      *(_global("collections", "OrderedDict"), pickle.EMPTY_TUPLE, pickle.REDUCE),
      *(pickle.TUPLE, pickle.REDUCE),
    )
  )


def _storage(value: np.ndarray, key: str, *more: bytes) -> bytes:
  """Opcodes of a storage that is elsewhere in the file."""
  kind = _global("torch", _KINDS[value.dtype])
  identifier = (_plain("storage"), kind, _plain(key), _plain("cpu"), _plain(value.size), *more)
  return b"".join((pickle.MARK, *identifier, pickle.TUPLE, pickle.BINPERSID))


def _storage_bytes(value: np.ndarray) -> bytes:
  """A storage in torch.save's format before 1.6, which tensors in ordinary pickles have."""
  sizes = {"short": 2, "int": 4, "long": 4}
  system = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
  head = (pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, 1001, system))
  persistent = pickle.PROTO + b"\x02" + _storage(value, "0", pickle.NONE) + pickle.STOP
  keys = pickle.dumps(["0"], protocol=2)
  little = value.astype(value.dtype.newbyteorder("<"), copy=False)
  return b"".join((*head, persistent, keys, value.size.to_bytes(8, "little"), little.tobytes()))


def _plain(value: Any, protocol: int = 2) -> bytes:
  """Opcodes of a plain value, without the frame of a whole pickle."""
  return pickle.dumps(value, protocol=protocol)[2:-1]


def _global(module: str, name: str) -> bytes:
  return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
