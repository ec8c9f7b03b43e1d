"""Reads checkpoints of PyTorch and detectron2 without torch, and without running them.

A pickle is a program: it may call anything that it can name.  The unpickler here knows a dozen
names, those that tensors, NumPy arrays and plain containers are made of, and answers to them with
functions of its own; every other name is refused.  Formats:

  .pth   zip archives of torch.save (1.6 and later): data.pkl, and one raw file per storage.
  .pt    zip archives of torch.jit.save, the same with a tree of modules in data.pkl; the code in
         them is not looked at.
  .pkl   pickles of NumPy arrays by name, as in the model zoos of detectron2 and Detectron.
  .npz   NumPy archives.
  .safetensors

The content decides which one a file is, not its name.
"""

import collections
import io
import math
import os
import pickle
import re
import types
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

STORAGES = {
  "FloatStorage": np.dtype(np.float32),
  "DoubleStorage": np.dtype(np.float64),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(jnp.bfloat16),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ShortStorage": np.dtype(np.int16),
  "CharStorage": np.dtype(np.int8),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
}

# The integer that torch.save wrote first before version 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# The longest header of a safetensors file that its library reads.
_MAX_HEADER = 100_000_000
# A small pickle can share its lists so often that unfolding them would never end.
_MAX_OBJECTS = 100_000
_RESAVE = (
  "Re-save it with torch 1.6 or later: torch.save(torch.load(FILE, map_location='cpu'), NEW_FILE)."
)


class ReadError(ValueError):
  """A checkpoint is damaged, of another format, or asks for more than arrays."""


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Arrays by name; what stands beside a 'model', 'state_dict' or 'blobs' entry is dropped.

  Of a TorchScript archive: its parameters and buffers, under their dotted names.
  Arrays may be read-only; bfloat16 stays bfloat16.

  Raises:
    ReadError: naming the file and what is wrong with it.
    FileNotFoundError: no such file.
  """
  path = os.fspath(path)
  with open(path, "rb") as file:
    head = file.read(262)
    file.seek(0)
    if head.startswith(b"PK"):
      return _read_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER:
      try:
        return safetensors.numpy.load_file(path)
      except (safetensors.SafetensorError, AttributeError) as error:  # Or a type NumPy lacks.
        raise ReadError(
          f"{path} is no readable safetensors file: {error}. Fetch it again."
        ) from error
    if head[257:262] == b"ustar":
      raise ReadError(f"{path} is a tar archive of a torch before 0.4. {_RESAVE}")
    content = _unpickle(file, path)
  if type(content) is int and content == LEGACY_MAGIC:
    raise ReadError(f"{path} has the format of a torch before 1.6. {_RESAVE}")
  return _arrays(content, path, _no_storage)


def read_objects(path: str | os.PathLike) -> Any:
  """What a pickle of plain containers, numbers, texts, arrays and tensors holds.

  Tensors and NumPy's numbers come as arrays, which may be read-only; tuples as lists.  Errors are
  those of `read_checkpoint`.
  """
  path = os.fspath(path)
  with open(path, "rb") as file:
    content = _unpickle(file, path)
  remaining = _MAX_OBJECTS

  def convert(value: Any) -> Any:
    nonlocal remaining
    remaining -= 1
    if remaining < 0:
      raise ReadError(f"{path} holds more than {_MAX_OBJECTS} objects, or one inside itself.")
    if isinstance(value, _Tensor):
      return _materialize(value, "a tensor", path, _no_storage)
    if isinstance(value, _Array) and value.array is not None:
      return value.array
    if type(value) in (list, tuple):
      return [convert(item) for item in value]  # pyright: ignore[reportGeneralTypeIssues]
    if isinstance(value, dict):
      return {key: convert(item) for key, item in dict(value).items()}
    if value is None or type(value) in (bool, int, float, str):
      return value
    raise ReadError(f"{path} holds {_kind(value)}; expected plain containers, numbers and arrays.")

  try:
    return convert(content)
  except RecursionError as error:
    raise ReadError(f"{path} nests its containers too deeply.") from error


def is_torch_archive(path: str | os.PathLike) -> bool:
  """Whether a file is a zip archive of torch.save or torch.jit.save."""
  if not zipfile.is_zipfile(path):
    return False
  with zipfile.ZipFile(path) as archive:
    return any(name.endswith("/data.pkl") for name in archive.namelist())


def _read_zip(path: str) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
      pickles = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
      if len(pickles) == 1:
        return _read_torch_zip(archive, pickles[0].removesuffix("data.pkl"), path)
      if names and all(name.endswith(".npy") for name in names):
        with np.load(path, allow_pickle=False) as arrays:
          return dict(arrays)
  except ReadError:
    raise
  except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
    raise ReadError(f"{path} is truncated or corrupt ({error}). Fetch it again.") from error
  except ValueError as error:
    raise ReadError(f"{path}: {error}. Expected plain numeric arrays.") from error
  raise ReadError(
    f"{path} is a zip file with neither one data.pkl (torch.save) nor .npy entries (numpy.savez)."
  )


def _read_torch_zip(archive: zipfile.ZipFile, prefix: str, path: str) -> dict[str, np.ndarray]:
  entries = set(archive.namelist())
  with archive.open(f"{prefix}data.pkl") as file:
    content = _unpickle(file, path)
  swap = f"{prefix}byteorder" in entries and archive.read(f"{prefix}byteorder") == b"big"
  cache: dict[str, np.ndarray] = {}

  def read(storage: _Storage) -> np.ndarray:
    entry = f"{prefix}data/{storage.key}"
    if entry not in cache:
      if entry not in entries:
        raise ReadError(f"{path} has no entry {entry}: it is incomplete. Fetch it again.")
      cache[entry] = np.frombuffer(archive.read(entry), np.uint8)
    dtype = STORAGES[storage.kind]
    if cache[entry].size != storage.numel * dtype.itemsize:
      raise ReadError(
        f"{path}: entry {entry} has {cache[entry].size} bytes, expected {storage.numel} numbers of "
        f"type {dtype}. Fetch it again."
      )
    flat = cache[entry].view(dtype)
    return flat.byteswap() if swap else flat

  return _arrays(content, path, read)


def _arrays(content: Any, path: str, read: Callable) -> dict[str, np.ndarray]:
  """The arrays of an unpickled file, out of the wrappings that are in use."""
  if isinstance(content, _Module):
    content = _tensors(content, path)
  elif isinstance(content, dict):
    for key in ("model", "state_dict", "blobs"):
      if isinstance(content.get(key), dict):
        content = dict(content[key])
        if key == "blobs":
          content = {k: v for k, v in content.items() if not str(k).endswith("_momentum")}
        break
  if not isinstance(content, dict) or not content:
    raise ReadError(f"{path} holds {_kind(content)}; expected a dict of arrays by name.")
  arrays = {}
  for name, value in dict(content).items():
    if not isinstance(name, str):
      raise ReadError(f"{path} has the key {name!r}; expected names of parameters.")
    if isinstance(value, _Tensor):
      arrays[name] = _materialize(value, name, path, read)
    elif isinstance(value, _Array) and value.array is not None:
      arrays[name] = value.array
    else:
      raise ReadError(f"{path}: {name!r} is {_kind(value)}; expected an array or a tensor.")
  return arrays


def _tensors(root: "_Module", path: str) -> "dict[str, _Tensor]":
  """The tensors of a tree of modules by dotted name; other attributes are settings of its code."""
  tensors, seen, pending = {}, set(), [("", root)]
  while pending:
    prefix, module = pending.pop()
    if id(module) in seen:
      raise ReadError(
        f"{path}: module {prefix!r} stands in two places; expected a tree of modules."
      )
    seen.add(id(module))
    for name, value in module.attributes.items():
      if isinstance(value, _Module):
        pending.append((f"{prefix}{name}.", value))
      elif isinstance(value, _Tensor):
        tensors[f"{prefix}{name}"] = value
  return tensors


def _kind(value: Any) -> str:
  return "an empty dict" if value == {} else f"a {type(value).__name__}"


class _Storage(NamedTuple):
  """The numbers behind tensors: an entry of the archive, or `data` where the pickle has them."""

  kind: str
  key: str
  numel: int
  data: np.ndarray | None = None


class _Tensor(NamedTuple):
  """A view of a storage: offset and strides count elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def _materialize(tensor: _Tensor, name: str, path: str, read: Callable) -> np.ndarray:
  """The array of a tensor.  Bounds are checked first: strides come from the file."""
  storage, offset, shape, strides = tensor
  numbers = (offset, *shape, *strides)
  if any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(strides):
    raise ReadError(f"{path}: {name!r} has the impossible layout {tensor[1:]}. Fetch it again.")
  flat = read(storage) if storage.data is None else storage.data
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
  if math.prod(shape) == 0:
    return np.zeros(shape, flat.dtype)
  if last >= flat.size:
    raise ReadError(
      f"{path}: {name!r} reaches element {last} of a storage of {flat.size}. Fetch it again."
    )
  view = np.lib.stride_tricks.as_strided(
    flat[offset:], shape, [s * flat.itemsize for s in strides], writeable=False
  )
  return np.asarray(view, order="C")


def _no_storage(storage: _Storage) -> np.ndarray:
  raise ReadError(f"storage {storage.key} is in no archive; expected a zip file of torch.save.")


class _Dtype:
  """What a pickle says of a dtype: a numeric type code, then the byte order."""

  def __init__(self, code: str):
    if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", code):
      raise pickle.UnpicklingError(f"arrays of dtype {code!r} (expected plain numbers)")
    self.dtype = np.dtype(code)

  def __setstate__(self, state):
    if (order := state[1]) in ("<", ">"):
      self.dtype = self.dtype.newbyteorder(order)


class _Array:
  """An array before and after its state arrived.  NumPy's own setter trusts what it reads."""

  array = None

  def __init__(self, *state):
    if state:
      self._fill(*state)

  def __setstate__(self, state):
    _, shape, dtype, fortran, data = state
    self._fill(data, dtype, shape, "F" if fortran else "C")

  def _fill(
    self, data: Any, dtype: Any, shape: tuple[int, ...] = (), order: Literal["C", "F"] = "C"
  ) -> None:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray | str):
      raise pickle.UnpicklingError("an array of Python objects (expected plain numbers)")
    # Python 2 wrote bytes as strings.
    data = data.encode("latin1") if isinstance(data, str) else bytes(data)
    self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
    if not self.array.dtype.isnative:
      self.array = self.array.astype(self.array.dtype.newbyteorder("="))


class _Module:
  """A module of a TorchScript archive: named attributes, whatever class it was of."""

  attributes: Mapping[str, Any] = types.MappingProxyType({})

  def __setstate__(self, state):
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
      raise pickle.UnpicklingError(f"a module with {_kind(state)} for attributes")
    self.attributes = state


class _Settings:
  """What training scripts store as an argparse.Namespace beside the parameters; never looked at."""

  __slots__ = ()

  def __setstate__(self, state):
    del state


class _Unpickler(pickle.Unpickler):
  """Builds containers, _Tensor, _Array, _Module and _Settings, and nothing else.

  Names are answered with bound methods, strings, built-in types, and functions and classes made for
  this one answer: what a pickle does to them cannot change how anything else is read.
  """

  def __init__(self, file, path: str):
    super().__init__(file, encoding="latin1")
    self._path = path

  def find_class(self, module: str, name: str) -> Any:
    if module == "torch" and name in STORAGES:
      return name
    if module.partition(".")[0] == "__torch__":
      return type("_Module", (_Module,), {})
    known = {
      "collections.OrderedDict": collections.OrderedDict,
      "collections.Counter": dict,  # torch's learning-rate schedules
      "argparse.Namespace": _Settings,
      "torch.Size": tuple,
      "torch._utils._rebuild_tensor_v2": self._tensor,
      "torch._utils._rebuild_parameter": lambda value, *_: value,
      "torch.jit._pickle.restore_type_tag": lambda value, *_: value,
      "torch.storage._load_from_bytes": self._embedded_storage,
      "numpy.ndarray": "ndarray",
      "numpy.dtype": lambda code, *_: _Dtype(code),
      "_codecs.encode": self._encode,
    }
    for kind in ("int", "double", "bool", "tensor"):
      known[f"torch.jit._pickle.build_{kind}list"] = list
    for package in ("numpy.core", "numpy._core"):
      known[f"{package}.multiarray._reconstruct"] = lambda *_: _Array()
      known[f"{package}.multiarray.scalar"] = lambda dtype, data=b"": _Array(data, dtype)
      known[f"{package}.numeric._frombuffer"] = lambda *state: _Array(*state)
    for package in ("builtins", "__builtin__"):
      known |= {f"{package}.{t.__name__}": t for t in (dict, list, tuple, set, frozenset)}
    if (full := f"{module}.{name}") not in known:
      raise ReadError(
        f"{self._path} asks for {full}, which is no part of an array or a plain container; nothing "
        "of it was run. Save the state dict alone: torch.save(model.state_dict(), NEW_FILE)."
      )
    return known[full]

  def persistent_load(self, identifier: Any) -> _Storage:
    kind, storage, key, _, numel, *_ = identifier
    if kind != "storage" or not isinstance(key, str) or storage not in STORAGES:
      raise pickle.UnpicklingError(f"the persistent id {identifier!r}")
    return _Storage(storage, key, numel)

  def _tensor(self, storage, offset, shape, strides, *_) -> _Tensor:
    if not isinstance(storage, _Storage):
      raise pickle.UnpicklingError("a tensor without storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))

  def _embedded_storage(self, data: bytes) -> _Storage:
    """A storage inside an ordinary pickle of tensors: torch.save's format before 1.6."""
    file = io.BytesIO(data)
    magic, _, _, storage, keys = (type(self)(file, self._path).load() for _ in range(5))
    if magic != LEGACY_MAGIC or not isinstance(storage, _Storage) or keys != [storage.key]:
      raise pickle.UnpicklingError("bytes that are no storage of torch")
    count, numbers = int.from_bytes(file.read(8), "little"), file.read()
    dtype = STORAGES[storage.kind]
    if count != storage.numel or len(numbers) != count * dtype.itemsize:
      raise pickle.UnpicklingError(f"{len(numbers)} bytes for {storage.numel} numbers of {dtype}")
    return storage._replace(data=np.frombuffer(numbers, dtype))

  def _encode(self, text, encoding) -> bytes:
    if encoding != "latin1":
      raise pickle.UnpicklingError(f"the text encoding {encoding!r}")
    return text.encode("latin1")


def _unpickle(file: IO[bytes], path: str) -> Any:
  try:
    return _Unpickler(file, path).load()
  except ReadError:
    raise
  except Exception as error:  # A damaged pickle can fail in any way.
    raise ReadError(
      f"{path} is no readable checkpoint: {type(error).__name__}: {error}. "
      "Expected .pth or .pt of torch, .pkl of arrays by name, .npz or .safetensors."
    ) from error
