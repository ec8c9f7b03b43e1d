"""Reads checkpoints of PyTorch and detectron2 without torch, and without running them.

A pickle is a program: it may call anything that it can name.  The machine of `pickles` knows a
few dozen names, those that tensors, NumPy arrays and plain containers are made of, and answers to
them with functions of its own (`tensors`); every other name is refused.  Formats:

  .pth   zip archives of torch.save (1.6 and later): data.pkl, and one raw file per storage.
  .pt    zip archives of torch.jit.save, the same with a tree of modules in data.pkl; the code in
         them is not looked at.
  .pkl   pickles of NumPy arrays by name, as in the model zoos of detectron2 and Detectron.
  .npz   NumPy archives.
  .safetensors
  model.safetensors.index.json, pytorch_model.bin.index.json: files of Hugging Face in several
         parts; their folder will do, too.

The content decides which one a file is, not its name.  Files are not trusted (`untrusted`).
"""

import io
import os
from collections.abc import Callable, Mapping
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from absl import logging

from rkd_jax.files.untrusted import hugging_face
from rkd_jax.files.untrusted.archives import Archive, arrays_of
from rkd_jax.files.untrusted.reading import (
  Allowance,
  ReadError,
  opening,
  quoted,
  refuse_head,
  shown,
)
from rkd_jax.files.untrusted.tensors import (
  LEGACY_MAGIC,
  STORAGES,
  Array,
  Module,
  Names,
  Storage,
  Tensor,
  kind_of,
  materialize,
  no_storage,
)

# A small pickle can share its lists so often that unfolding them would never end.
_MAX_OBJECTS = 100_000
# Of a module inside modules.
_MAX_NAME = 1_000
_RESAVE = (
  "Re-save it with torch 1.6 or later: torch.save(torch.load(FILE, map_location='cpu'), NEW_FILE)."
)
_EXPECTED = ".pth or .pt of torch, .pkl of arrays by name, .npz or .safetensors"
# What training scripts call the weights among the other things that they save.
_WRAPPINGS = ("model", "state_dict", "model_state_dict", "params", "net", "module", "blobs")

# Bytes of plain texts.
_TEXT = frozenset({*range(32, 127), *b"\t\n\r"})

Format = Literal["torch", "torchscript", "pickle", "npz", "safetensors"]


class Checkpoint(NamedTuple):
  """Arrays by name, the format they were in, and the short texts that stand beside them."""

  arrays: dict[str, np.ndarray]
  format: Format
  notes: Mapping[str, str]


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Arrays by name; what stands beside a 'model', 'state_dict' or 'blobs' entry is dropped.

  Other names of such an entry are model_state_dict, params, net and module.  Of a TorchScript
  archive: its parameters and buffers, under their dotted names.  Arrays may be read-only; bfloat16
  stays bfloat16.

  Raises:
    ReadError: naming the file and what is wrong with it.
    FileNotFoundError: no such file.
  """
  return open_checkpoint(path).arrays


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
  """The arrays of a file, of a folder of Hugging Face, or of all parts that an index lists.

  Raises what `read_checkpoint` does.
  """
  path = hugging_face.published_file(path)
  if hugging_face.is_index(path):
    return _read_parts(path)
  with opening(path, _EXPECTED) as (file, head, allowance):
    if hugging_face.is_safetensors(head):
      return Checkpoint(hugging_face.read_safetensors(file, allowance), "safetensors", {})
    refuse_head(path, head)
    if head.startswith(b"PK"):
      return _read_zip(file, allowance)
    content = _unpickle(file, head, allowance)
    return _checkpoint(content, "pickle", allowance, no_storage(allowance.path))


def _read_parts(path: str) -> Checkpoint:
  """All parts that an index lists; each must hold what the index says, and nothing else."""
  arrays: dict[str, np.ndarray] = {}
  format: Format = "safetensors"
  for part, names in hugging_face.parts_of(path).items():
    found, format, _ = open_checkpoint(part)
    if odd := sorted(found.keys() ^ names):
      where = "not in it" if odd[0] in names else "not in the index"
      raise ReadError(
        f"{part} is not the part that {path} describes: {quoted(odd[0])} is {where}"
        f" ({len(odd)} such names). Fetch the files of one version."
      )
    arrays |= found
  return Checkpoint(arrays, format, {})


def read_objects(path: str | os.PathLike) -> Any:
  """What a pickle of plain containers, numbers, texts, arrays and tensors holds.

  Tensors and NumPy's numbers come as arrays, which may be read-only; tuples as lists.  Errors are
  those of `read_checkpoint`.
  """
  with opening(path, "a pickle of plain containers and arrays") as (file, head, allowance):
    refuse_head(path, head)
    content = _unpickle(file, head, allowance)
    remaining = _MAX_OBJECTS

    def convert(value: Any) -> Any:
      nonlocal remaining
      remaining -= 1
      if remaining < 0:
        raise ReadError(
          f"{allowance.path} holds more than {_MAX_OBJECTS} objects, or one inside itself."
        )
      if isinstance(value, Tensor):
        return materialize(value, "a tensor", allowance, no_storage(allowance.path))
      if isinstance(value, Array) and value.array is not None:
        return value.array
      if type(value) in (list, tuple):
        return [convert(item) for item in value]  # pyright: ignore[reportGeneralTypeIssues]
      if type(value) is dict:
        return {key: convert(item) for key, item in value.items()}
      if value is None or type(value) in (bool, int, float, str):
        return value
      raise ReadError(
        f"{allowance.path} holds {kind_of(value)}; expected plain containers, numbers and arrays."
      )

    return convert(content)


def _unpickle(file: IO[bytes], head: bytes, allowance: Allowance) -> Any:
  path = allowance.path
  if head[257:262] == b"ustar":
    raise ReadError(f"{path} is a tar archive of a torch before 0.4. {_RESAVE}")
  try:
    content = Names(allowance).machine(file, allowance.size).run()
  except (ValueError, LookupError, TypeError) as error:
    # The oldest pickles are texts, too.
    if isinstance(error, ReadError) or not all(byte in _TEXT for byte in head):
      raise
    raise ReadError(
      f"{path} is a text that begins with {quoted(head.decode())}, not {_EXPECTED}."
    ) from error
  if type(content) is int and content == LEGACY_MAGIC:
    raise ReadError(f"{path} has the format of a torch before 1.6. {_RESAVE}")
  return content


def _read_zip(file: IO[bytes], allowance: Allowance) -> Checkpoint:
  archive = Archive(file, allowance)
  names = archive.names
  pickles = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
  if len(pickles) == 1:
    return _read_torch_zip(archive, pickles[0].removesuffix("data.pkl"), allowance)
  if names and all(name.endswith(".npy") for name in names):
    return Checkpoint(arrays_of(archive, allowance), "npz", {})
  raise ReadError(
    f"{allowance.path} is a zip file with neither one data.pkl (torch.save) nor .npy entries"
    " (numpy.savez)."
  )


def _read_torch_zip(archive: Archive, prefix: str, allowance: Allowance) -> Checkpoint:
  path, entries = allowance.path, set(archive.names)
  data = archive.read(f"{prefix}data.pkl")
  content = Names(allowance).machine(io.BytesIO(data), len(data)).run()
  order = archive.read(f"{prefix}byteorder") if f"{prefix}byteorder" in entries else b"little"
  if order not in (b"little", b"big"):
    raise ReadError(f"{path} has the byte order {shown(order)}; expected little or big.")
  storages: dict[tuple[str, str], np.ndarray] = {}
  raw: dict[str, bytes] = {}

  def read(storage: Storage) -> np.ndarray:
    dtype = STORAGES[storage.kind]
    if (known := storages.get((storage.key, storage.kind))) is not None:
      flat = known
    else:
      entry = f"{prefix}data/{storage.key}"
      if entry not in entries:
        raise ReadError(f"{path} has no entry {shown(entry)}: it is incomplete. Fetch it again.")
      if storage.key not in raw:
        raw[storage.key] = archive.read(entry)
      if len(raw[storage.key]) % dtype.itemsize:
        raise _other_length(path, entry, len(raw[storage.key]), storage)
      flat = np.frombuffer(raw[storage.key], dtype)
      if order == b"big":
        allowance.take(flat.nbytes, f"{shown(entry)} in another byte order")
        flat = flat.byteswap()
      storages[storage.key, storage.kind] = flat
    if flat.size != storage.numel:
      raise _other_length(path, f"{prefix}data/{storage.key}", flat.nbytes, storage)
    return flat

  is_script = isinstance(content, Module)
  return _checkpoint(content, "torchscript" if is_script else "torch", allowance, read)


def _other_length(path: str, entry: str, found: int, storage: Storage) -> ReadError:
  return ReadError(
    f"{path}: entry {shown(entry)} has {found} bytes, expected {storage.numel} numbers of type"
    f" {STORAGES[storage.kind]}. Fetch it again."
  )


def _checkpoint(
  content: Any, format: Format, allowance: Allowance, read: Callable[[Storage], np.ndarray]
) -> Checkpoint:
  """The arrays of an unpickled file, out of the wrappings that are in use."""
  path, notes = allowance.path, {}
  if isinstance(content, Module):
    content = _tensors(content, path)
  elif type(content) is dict:
    content, notes = _unwrapped(content, path)
  if type(content) is not dict or not content:
    raise ReadError(f"{path} holds {kind_of(content)}; expected a dict of arrays by name.")
  arrays = {}
  for name, value in content.items():
    if type(name) is not str or len(name) > _MAX_NAME:
      raise ReadError(f"{path} has the key {quoted(name)}; expected names of parameters.")
    if isinstance(value, Tensor):
      arrays[name] = materialize(value, name, allowance, read)
    elif isinstance(value, Array) and value.array is not None:
      # The same one under many names is as much to whoever converts them.
      allowance.take_shape(value.array.shape, value.array.itemsize, shown(name))
      arrays[name] = value.array
    else:
      raise ReadError(f"{path}: {quoted(name)} is {kind_of(value)}; expected an array or a tensor.")
  return Checkpoint(arrays, format, notes)


def _unwrapped(content: dict, path: str) -> tuple[Any, dict[str, str]]:
  """What the file calls its weights, and the short texts beside them."""
  notes: dict[str, str] = {}
  for _ in range(len(_WRAPPINGS)):
    found = {key: content[key] for key in _WRAPPINGS if type(content.get(key)) is dict}
    full = {key: value for key, value in found.items() if _holds_arrays(value)} or found
    if not full:
      break
    if len(full) > 1 and all(map(_holds_arrays, full.values())):
      raise ReadError(
        f"{path} holds weights under {' and '.join(full)}. Save those that are meant alone:"
        f" torch.save(torch.load(FILE)[{next(iter(full))!r}], NEW_FILE)."
      )
    key = next(iter(full))
    notes |= {
      shown(name): shown(value, 1000)
      for name, value in content.items()
      if type(name) is str and type(value) is str
    }
    logging.info("%s: weights taken from its entry %r.", path, key)
    content = full[key]
    if key == "blobs":
      content = {k: v for k, v in content.items() if not str(k).endswith("_momentum")}
  return content, notes


def _holds_arrays(value: dict) -> bool:
  inner = (value[key] for key in _WRAPPINGS if type(value.get(key)) is dict)
  candidates = (value, *inner)
  return any(isinstance(item, Tensor | Array) for one in candidates for item in one.values())


def _tensors(root: Module, path: str) -> dict[str, Tensor]:
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
      if not isinstance(value, Module | Tensor):
        continue
      if len(prefix) + len(name) > _MAX_NAME:
        raise ReadError(f"{path}: module {quoted(prefix)} nests its modules too deeply.")
      if isinstance(value, Module):
        pending.append((f"{prefix}{name}.", value))
      else:
        tensors[f"{prefix}{name}"] = value
  return tensors
