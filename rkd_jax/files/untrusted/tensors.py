"""Tensors and arrays as pickles of torch, NumPy and detectron2 spell them.

`Names` answers what such a pickle names, with functions of this module; a few dozen names are
known, and every other is refused.  Tensors are views of storages, which `materialize` makes arrays
of, once their layout is known to fit.
"""

import io
import math
import re
import struct
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from rkd_jax.files.untrusted import pickles
from rkd_jax.files.untrusted.pickles import Name, Stateful
from rkd_jax.files.untrusted.reading import Allowance, ReadError, quoted, shown

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

# What NumPy has at most.
_MAX_RANK = 64
# What an item of a container takes, about, that a call in a pickle copies.
_ITEM = 100

# Tensors whose numbers are not where their layout says, by what rebuilds them.
_OTHER_TENSORS = (
  (r"torch\._utils\._rebuild_sparse\w*", "a sparse tensor", "tensor.to_dense()"),
  (r"torch\._utils\._rebuild_nested_tensor", "a nested tensor", "tensor.to_padded_tensor(0)"),
  (r"torch\._utils\._rebuild_qtensor|torch\.Q\w+Storage", "a quantised tensor", "dequantize()"),
  (r"torch\.Complex\w+Storage", "a complex tensor", "torch.view_as_real"),
  (
    r"torch\._utils\._rebuild_meta_tensor\w*",
    "a tensor without numbers (device 'meta')",
    "loading the weights before they are saved",
  ),
  (
    r"torch\._utils\._rebuild_(tensor_v3|wrapper_subclass|device_tensor\w*)|torch\._tensor\..*",
    "a tensor of a kind that has no plain storage",
    "tensor.detach().float().cpu()",
  ),
)


class Storage(NamedTuple):
  """The numbers behind tensors: an entry of the archive, or `data` where the pickle has them."""

  kind: str
  key: str
  numel: int
  data: np.ndarray | None = None


class Tensor(NamedTuple):
  """A view of a storage: offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def is_shape(value: Any) -> bool:
  """Whether a value is a tuple of lengths that an array can have."""
  if type(value) is not tuple or len(value) > _MAX_RANK:
    return False
  return all(type(n) is int and 0 <= n < 2**62 for n in value)


def materialize(
  tensor: Tensor, name: str, allowance: Allowance, read: Callable[[Storage], np.ndarray]
) -> np.ndarray:
  """The array of a tensor, read-only; a view of its storage where that is contiguous.

  The layout comes from the file.  It may reach no number beyond the storage, nor show more numbers
  than the storage has: an expanded tensor (stride 0) of a few bytes would fill the memory.

  Raises:
    ReadError: an impossible layout, or one that asks for too much.
  """
  storage, offset, shape, strides = tensor
  where = f"{allowance.path}: {quoted(name)}"
  if not (is_shape(shape) and is_shape(strides) and is_shape((offset,))):
    raise ReadError(f"{where} has the impossible layout {shown(tensor[1:])}. Fetch it again.")
  if len(shape) != len(strides):
    raise ReadError(f"{where} has the impossible layout {shown(tensor[1:])}. Fetch it again.")
  dtype = STORAGES[storage.kind]
  allowance.take_shape(shape, dtype.itemsize, f"{quoted(name)} of shape {shown(shape)}")
  flat = read(storage) if storage.data is None else storage.data
  count = math.prod(shape)
  if count == 0:
    return np.zeros(shape, dtype)
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
  if last >= flat.size:
    raise ReadError(f"{where} reaches element {last} of a storage of {flat.size}. Fetch it again.")
  if count > flat.size:
    raise ReadError(
      f"{where} has {count} numbers in a storage of {flat.size}: an expanded tensor. Save"
      " tensor.clone() in its place."
    )
  view = np.lib.stride_tricks.as_strided(
    flat[offset:], shape, [s * flat.itemsize for s in strides], writeable=False
  )
  return np.asarray(view, order="C")


def no_storage(path: str) -> Callable[[Storage], np.ndarray]:
  """What reads the storages of a file that is no archive: it refuses each, as a ReadError."""

  def read(storage: Storage) -> np.ndarray:
    raise ReadError(
      f"{path}: storage {quoted(storage.key)} is in no archive; expected a zip file of torch.save."
    )

  return read


class _Dtype(Stateful):
  """What a pickle says of a dtype: a numeric type code, then the byte order."""

  def __init__(self, code: Any):
    if type(code) is not str or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", code):
      raise ValueError(f"arrays of dtype {quoted(code)} (expected plain numbers)")
    self.dtype = np.dtype(code)

  def set_state(self, state: Any) -> None:
    if (order := state[1]) in ("<", ">"):
      self.dtype = self.dtype.newbyteorder(order)


class Array(Stateful):
  """An array before and after its state arrived.  NumPy's own setter trusts what it reads."""

  array: np.ndarray | None = None

  def __init__(self, allowance: Allowance):
    self._allowance = allowance

  def set_state(self, state: Any) -> None:
    _, shape, dtype, fortran, data = state
    self.fill(data, dtype, shape, "F" if fortran else "C")

  def fill(self, data: Any, dtype: Any, shape: Any = (), order: Literal["C", "F"] = "C") -> "Array":
    if not isinstance(dtype, _Dtype) or type(data) not in (bytes, str):
      raise ValueError("an array of Python objects (expected plain numbers)")
    shape = (shape,) if type(shape) is int else shape
    if not is_shape(shape):
      raise ValueError(f"an array of shape {shown(shape)}")
    kind, what = dtype.dtype, f"an array of shape {shown(shape)}"
    self._allowance.take_shape(shape, kind.itemsize, what)
    if math.prod(shape) * kind.itemsize != len(data):
      raise ValueError(f"{len(data)} bytes for {what} of {kind}")
    if type(data) is str:  # Python 2 wrote bytes as strings.
      self._allowance.take(len(data), what)
      data = data.encode("latin1")
    array = np.frombuffer(data, kind) if data else np.zeros(0, kind)
    array = array.reshape(shape, order=order if order in ("C", "F") else "C")
    self.array = array if kind.isnative else array.astype(kind.newbyteorder("="))
    return self


class Module(Stateful):
  """A module of a TorchScript archive: named attributes, whatever class it was of."""

  attributes: Mapping[str, Any] = types.MappingProxyType({})

  def set_state(self, state: Any) -> None:
    if type(state) is not dict or not all(type(name) is str for name in state):
      raise ValueError(f"a module with {kind_of(state)} for attributes")
    self.attributes = state


class Settings(Stateful):
  """What training scripts store as an argparse.Namespace beside the parameters; never looked at."""

  def set_state(self, state: Any) -> None:
    del state


def kind_of(value: Any) -> str:
  """What a value is, for errors."""
  return "an empty dict" if type(value) is dict and not value else f"a {type(value).__name__}"


class Names:
  """What the pickles of one file may name, and the storages that they may point to."""

  def __init__(self, allowance: Allowance, embedded: bool = False):
    self._allowance = allowance
    self._steps = pickles.Steps()
    known: dict[str, Callable[..., Any] | None] = {
      "collections.OrderedDict": self._dict,
      "collections.Counter": self._dict,  # torch's learning-rate schedules
      "argparse.Namespace": Settings,
      "torch.Size": self._tuple,
      "torch._utils._rebuild_tensor_v2": _tensor,
      "torch._utils._rebuild_parameter": lambda value, *_: value,
      "torch._utils._rebuild_parameter_with_state": lambda value, *_: value,
      "torch.jit._pickle.restore_type_tag": lambda value, *_: value,
      "torch.storage._load_from_bytes": self._embedded_storage,
      "numpy.ndarray": None,
      "numpy.dtype": lambda code, *_: _Dtype(code),
      "_codecs.encode": self._encode,
    }
    if embedded:
      known = {}
    for kind in ("int", "double", "bool", "tensor"):
      known[f"torch.jit._pickle.build_{kind}list"] = self._list
    for package in ("numpy.core", "numpy._core"):
      known[f"{package}.multiarray._reconstruct"] = lambda *_: Array(allowance)
      known[f"{package}.multiarray.scalar"] = lambda dtype, data: Array(allowance).fill(data, dtype)
      known[f"{package}.numeric._frombuffer"] = lambda *state: Array(allowance).fill(*state)
    for package in ("builtins", "__builtin__"):
      plain = {"dict": self._dict, "list": self._list, "tuple": self._tuple, "set": self._set}
      plain["bytes"] = lambda: b""  # As protocols before 3 write it.
      plain["frozenset"] = lambda items=(): frozenset(self._set(items))
      known |= {f"{package}.{name}": call for name, call in plain.items()}
    self._known = known

  def machine(self, file: Any, size: int) -> pickles.Machine:
    """A machine for the pickles of a file that answers with these names."""
    arguments = (self._resolve, self._persistent, self._allowance, self._steps)
    return pickles.Machine(file, size, *arguments)

  def _resolve(self, module: str, name: str) -> Name:
    full = f"{module}.{name}"
    if module == "torch" and name in STORAGES:
      return Name(name)
    if module.partition(".")[0] == "__torch__":
      return Name("__torch__", Module)
    if full in self._known:
      return Name(full, self._known[full])
    for pattern, what, remedy in _OTHER_TENSORS:
      if re.fullmatch(pattern, full[:200]):
        raise ReadError(
          f"{self._allowance.path} holds {what} ({shown(full)}); expected plain ones. Save them"
          f" after {remedy}."
        )
    raise ReadError(
      f"{self._allowance.path} asks for {shown(full, 100)}, which is no part of an array or a plain"
      " container; nothing of it was run. Save the state dict alone:"
      " torch.save(model.state_dict(), NEW_FILE)."
    )

  def _persistent(self, identifier: Any) -> Storage:
    if type(identifier) is not tuple or len(identifier) < 5:
      raise ValueError(f"the persistent id {shown(identifier)}")
    kind, storage, key, device, numel, *_ = identifier
    known = isinstance(storage, Name) and storage.full in STORAGES
    if kind != "storage" or not known or type(key) is not str or not is_shape((numel,)):
      raise ValueError(f"the persistent id {shown(identifier)}")
    if device == "meta":
      raise ReadError(
        f"{self._allowance.path} holds a tensor without numbers (device 'meta'). Save it after the"
        " weights are loaded."
      )
    return Storage(storage.full, key, numel)

  def _embedded_storage(self, data: Any) -> Storage:
    """A storage inside an ordinary pickle of tensors: torch.save's format before 1.6."""
    if type(data) is not bytes:
      raise ValueError("a storage that is no bytes")
    self._allowance.take(2 * len(data), "storages inside the pickle")
    # Its own names are the storages: what is inside it holds no other.
    inner = Names(self._allowance, embedded=True)
    inner._steps = self._steps
    machine = inner.machine(io.BytesIO(data), len(data))
    magic, _, _, storage, keys = (machine.run() for _ in range(5))
    if type(magic) is not int or magic != LEGACY_MAGIC or not isinstance(storage, Storage):
      raise ValueError("bytes that are no storage of torch")
    if type(keys) is not list or len(keys) != 1 or keys != [storage.key]:
      raise ValueError("bytes that are no storage of torch")
    (count,), numbers = struct.unpack("<Q", machine.read(8)), machine.rest()
    dtype = STORAGES[storage.kind]
    if count != storage.numel or len(numbers) != count * dtype.itemsize:
      raise ValueError(f"{len(numbers)} bytes for {storage.numel} numbers of {dtype}")
    flat = np.frombuffer(numbers, dtype) if numbers else np.zeros(0, dtype)
    return storage._replace(data=flat)

  def _encode(self, text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
      raise ValueError(f"the text encoding {quoted(encoding)}")
    self._allowance.take(len(text), "bytes written as text")
    return text.encode("latin1")

  def _items(self, items: Any) -> Any:
    if type(items) not in (list, tuple, dict, set, frozenset):
      raise ValueError(f"a container made from {shown(items)}")
    self._allowance.take(_ITEM * len(items), "copies of containers")
    return items

  def _list(self, items: Any = ()) -> list:
    return list(self._items(items))

  def _tuple(self, items: Any = ()) -> tuple:
    return tuple(self._items(items))

  def _set(self, items: Any = ()) -> set:
    return set(map(pickles.plain_key, self._items(items)))

  def _dict(self, items: Any = ()) -> dict:
    items = self._items(items)
    return pickles.fill_dict({}, items.items() if type(items) is dict else items)


def _tensor(
  storage: Any, offset: Any, shape: Any, strides: Any, _grad=None, _hooks=None, metadata: Any = None
) -> Tensor:
  if not isinstance(storage, Storage):
    raise ValueError("a tensor without storage")
  if metadata:
    # The negative or conjugate of what is stored.
    raise ValueError(f"a tensor with the settings {shown(metadata)}; save tensor.resolve_neg()")
  return Tensor(storage, offset, shape, strides)
