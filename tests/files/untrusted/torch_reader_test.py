import argparse
import collections
import io
import json
import os
import pickle
import pickletools
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from pretended_torch import pretended_torch

from rkd_jax.files.torch_writer import write_pth
from rkd_jax.files.untrusted import tensors
from rkd_jax.files.untrusted.torch_reader import ReadError, open_checkpoint, read_checkpoint

BFLOAT16 = np.dtype(jnp.bfloat16)


class _Storage:
  def __init__(self, kind, key, data):
    self.kind, self.key, self.data = kind, key, data


class _View:
  """Stands for a tensor: pickled as torch does it."""

  def __init__(self, storage, offset, shape, strides):
    self.storage, self.layout = storage, (offset, shape, strides)

  def __reduce__(self):
    rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
    return rebuild, (self.storage, *self.layout, False, collections.OrderedDict())


def _save(path, content, storages=()):
  """As torch.save."""
  with pretended_torch() as torch:

    class Pickler(pickle.Pickler):
      def persistent_id(self, value):
        if isinstance(value, _Storage):
          kind = getattr(torch, value.kind)
          return ("storage", kind, value.key, "cpu", value.data.size)
        return None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("model/data.pkl", buffer.getvalue())
    for storage in storages:
      archive.writestr(f"model/data/{storage.key}", storage.data.tobytes())
    archive.writestr("model/version", "3\n")


class _Hostile:
  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return os.system, (f"touch {self.marker}",)


def test_views_offsets_and_shared_storages(tmp_path):
  storage = _Storage("FloatStorage", "0", np.arange(12, dtype=np.float32))
  state = collections.OrderedDict(
    transposed=_View(storage, 0, (3, 4), (1, 3)),
    part=_View(storage, 5, (2,), (4,)),
    expanded=_View(storage, 7, (2, 2), (0, 0)),
    scalar=_View(storage, 11, (), ()),
    empty=_View(storage, 0, (0, 3), (3, 1)),
  )
  state._metadata = collections.OrderedDict(version=1)
  _save(tmp_path / "m.pth", state, [storage])
  read = read_checkpoint(tmp_path / "m.pth")
  np.testing.assert_array_equal(read["transposed"], np.arange(12).reshape(4, 3).T)
  np.testing.assert_array_equal(read["part"], [5, 9])
  np.testing.assert_array_equal(read["expanded"], np.full((2, 2), 7))
  assert read["scalar"].shape == () and read["scalar"] == 11
  assert read["empty"].shape == (0, 3)
  assert {a.dtype for a in read.values()} == {np.dtype(np.float32)}


def test_only_the_model_of_a_training_checkpoint_is_read(tmp_path):
  storage = _Storage("HalfStorage", "0", np.float16([1.5, -2]))
  tensor = _View(storage, 0, (2,), (1,))
  content = {
    "model": {"weight": tensor},
    "optimizer": {"state": {0: {"momentum_buffer": tensor}}, "param_groups": [{"lr": 0.02}]},
    "scheduler": {"milestones": collections.Counter([2, 3]), "best": np.float64(0.5)},
    "iteration": 7,
  }
  _save(tmp_path / "m.pth", content, [storage])
  read = read_checkpoint(tmp_path / "m.pth")
  assert read.keys() == {"weight"} and read["weight"].dtype == np.float16
  np.testing.assert_array_equal(read["weight"], [1.5, -2])


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "params", "net"])
def test_names_of_the_weights_in_a_training_checkpoint(tmp_path, key):
  content = {key: {"w": np.arange(3.0)}, "epoch": 3, "optimizer": {"lr": 1.0}}
  (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
  assert read_checkpoint(tmp_path / "a.pkl").keys() == {"w"}
  (tmp_path / "a.pkl").write_bytes(pickle.dumps({"state_dict": content, "model": {"layers": 3}}))
  assert read_checkpoint(tmp_path / "a.pkl").keys() == {"w"}


def test_two_sets_of_weights_are_not_chosen_from(tmp_path):
  content = {"model": {"w": np.zeros(1)}, "params": {"w": np.ones(1)}}
  (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
  with pytest.raises(ReadError, match=r"holds weights under model and params\. Save those"):
    read_checkpoint(tmp_path / "a.pkl")


def test_texts_beside_the_weights_are_kept(tmp_path):
  content = {"model": {"w": np.zeros(1)}, "__author__": "torchvision", "matching_heuristics": True}
  (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
  found = open_checkpoint(tmp_path / "a.pkl")
  assert (found.format, found.notes) == ("pickle", {"__author__": "torchvision"})


def test_settings_beside_the_model_are_passed_over(tmp_path):
  content = {"model": {"w": np.arange(3.0)}, "args": argparse.Namespace(lr=1e-4, name="x")}
  (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=2))
  np.testing.assert_array_equal(read_checkpoint(tmp_path / "a.pkl")["w"], np.arange(3.0))


def test_settings_cannot_be_altered_by_a_file(tmp_path):
  """Setting an attribute of the class itself, which would outlive the reading of this file."""
  hostile = pickle.PROTO + b"\x02cargparse\nNamespace\n}X\x01\x00\x00\x00aK\x01sb."
  (tmp_path / "a.pkl").write_bytes(hostile)
  with pytest.raises(ReadError):
    read_checkpoint(tmp_path / "a.pkl")
  assert not hasattr(tensors.Settings, "a")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays(tmp_path, protocol):
  arrays = {
    "c": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big": np.arange(3, dtype=">f4"),
    "scalar": np.float32(2.5),
  }
  content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
  (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
  read = read_checkpoint(tmp_path / "m.pkl")
  assert read.keys() == arrays.keys()
  for name, value in arrays.items():
    np.testing.assert_array_equal(read[name], value)
    assert read[name].dtype.isnative


def test_pickles_of_python_2(tmp_path):
  """There, the bytes of an array are a string."""
  array = np.float32([[-1.5, 3e8]])
  content = {"blobs": {"conv1_w": array, "conv1_w_momentum": array}, "cfg": "x"}
  data = bytearray(pickle.dumps(content, protocol=3))
  for op, _, position in pickletools.genops(bytes(data)):
    if op.name == "SHORT_BINBYTES":
      data[position] = ord(pickle.SHORT_BINSTRING)
  data[1] = 2
  (tmp_path / "m.pkl").write_bytes(data)
  read = read_checkpoint(tmp_path / "m.pkl")
  assert read.keys() == {"conv1_w"}
  np.testing.assert_array_equal(read["conv1_w"], array)


def test_npz(tmp_path):
  np.savez(tmp_path / "m.npz", a=np.arange(3), b=np.float32(1))
  read = read_checkpoint(tmp_path / "m.npz")
  assert read.keys() == {"a", "b"}
  np.testing.assert_array_equal(read["a"], [0, 1, 2])
  np.savez(tmp_path / "objects.npz", a=np.array([{}]))
  with pytest.raises(ReadError, match=r"objects\.npz.*numeric arrays"):
    read_checkpoint(tmp_path / "objects.npz")


@pytest.mark.parametrize("name", ["m.pkl", "m.pth"])
@pytest.mark.parametrize("wrap", [lambda x: {"w": x}, lambda x: {"model": {}, "optimizer": [x]}])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, name, wrap):
  marker = tmp_path / "marker"
  content = wrap(_Hostile(marker))
  if name == "m.pkl":
    (tmp_path / name).write_bytes(pickle.dumps(content))
  else:
    _save(tmp_path / name, content)
  with pytest.raises(ReadError, match=rf"{name} asks for (posix|nt)\.system, .* nothing of it"):
    read_checkpoint(tmp_path / name)
  assert not marker.exists()
  os.system(f"touch {marker}")
  assert marker.exists()  # so it would have shown


@pytest.mark.parametrize("function", ["eval", "getattr", "__import__", "type"])
def test_no_other_builtin_is_known(tmp_path, function):
  data = pickle.dumps({"w": getattr(__import__("builtins"), function)})
  (tmp_path / "m.pkl").write_bytes(data)
  with pytest.raises(ReadError, match=rf"asks for builtins\.{function},"):
    read_checkpoint(tmp_path / "m.pkl")


def test_dotted_names_do_not_reach_further(tmp_path):
  data = b"\x80\x04\x8c\x0bcollections\x8c\x13OrderedDict.fromkey\x93."
  (tmp_path / "m.pkl").write_bytes(data)
  with pytest.raises(ReadError, match=r"asks for collections\.OrderedDict\.fromkey,"):
    read_checkpoint(tmp_path / "m.pkl")


@pytest.mark.parametrize(
  "layout, message",
  [
    ((0, (4,), (1,)), "'w' reaches element 3 of a storage of 3"),
    ((0, (2, 2), (2, 1)), "reaches element 3"),
    ((3, (1,), (1,)), "reaches element 3"),
    ((-1, (1,), (1,)), "impossible layout"),
    ((2, (3,), (-1,)), "impossible layout"),
    ((0, (3, 1), (1,)), "impossible layout"),
    ((0, (2.0,), (1,)), "impossible layout"),
  ],
)
def test_a_view_beyond_its_storage_is_refused(tmp_path, layout, message):
  storage = _Storage("FloatStorage", "0", np.zeros(3, np.float32))
  _save(tmp_path / "m.pth", {"w": _View(storage, *layout)}, [storage])
  with pytest.raises(ReadError, match=message):
    read_checkpoint(tmp_path / "m.pth")


def test_arrays_of_objects_are_refused(tmp_path):
  (tmp_path / "m.pkl").write_bytes(pickle.dumps({"w": np.array([{}])}))
  with pytest.raises(ReadError, match=r"dtype 'O8'.*plain numbers"):
    read_checkpoint(tmp_path / "m.pkl")


def test_incomplete_files_are_named(tmp_path):
  path = tmp_path / "m.pth"
  write_pth(path, {"w": np.ones(100, np.float32)})
  whole = path.read_bytes()
  path.write_bytes(whole[:-40])
  with pytest.raises(ReadError, match=r"m\.pth is truncated or corrupt .* Fetch it again"):
    read_checkpoint(path)
  path.write_bytes(whole.replace(np.ones(9, np.float32).tobytes(), b"\0" * 36, 1))
  with pytest.raises(ReadError, match=r"corrupt \(Bad CRC-32"):
    read_checkpoint(path)
  storage = _Storage("FloatStorage", "0", np.zeros(3, np.float32))
  _save(path, {"w": _View(storage, 0, (3,), (1,))})
  with pytest.raises(ReadError, match="no entry model/data/0"):
    read_checkpoint(path)
  short = _Storage("FloatStorage", "0", np.zeros(2, np.float32))
  _save(path, {"w": _View(storage, 0, (3,), (1,))}, [short])
  with pytest.raises(ReadError, match="has 8 bytes, expected 3 numbers of type float32"):
    read_checkpoint(path)
  pkl = tmp_path / "m.pkl"
  pkl.write_bytes(pickle.dumps({"w": np.ones(9)})[:-20])
  with pytest.raises(ReadError, match=r"m\.pkl is no readable checkpoint"):
    read_checkpoint(pkl)


def _module(name, state):
  """Opcodes of a module as torch.jit.save writes it, for states that it would not write."""
  return b"c__torch__.some.code\n" + name + b"\n)\x81" + state + b"b"


def _write_archive(path, data):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("model/data.pkl", b"\x80\x02" + data + b".")
    archive.writestr("model/code/__torch__.py", "raise RuntimeError")


def test_modules_are_read_as_trees_only(tmp_path):
  """A module that is its own child, or stands in two places, has no dotted name."""
  path = tmp_path / "m.pt"
  child = _module(b"Linear", b"}")
  # BINPUT 1 keeps the child, BINGET 1 puts it there again.
  state = b"}(X\x01\0\0\0a" + child + b"q\x01X\x01\0\0\0bh\x01u"
  _write_archive(path, _module(b"Net", state))
  with pytest.raises(ReadError, match=r"m\.pt: module '[ab]\.' stands in two places"):
    read_checkpoint(path)
  _write_archive(path, b"c__torch__\nNet\n)\x81q\x00}(X\x04\0\0\0selfh\x00ub")
  with pytest.raises(ReadError, match=r"module 'self\.' stands in two places"):
    read_checkpoint(path)


@pytest.mark.parametrize(
  "data, message",
  [
    (_module(b"Net", b"]"), "a module with a list for attributes"),
    (_module(b"Net", b"}(K\x01K\x02u"), "a module with a dict for attributes"),
    (b"c__torch__\nNet\n(K\x01tR", "TypeError"),
    (b"c__torch__\nNet\n}b", "the state of a Name"),
    (_module(b"Net", b"}(X\x01\0\0\0acposix\nsystem\nu"), r"asks for posix\.system"),
    (_module(b"Net", b"}(X\x01\0\0\0aK\x01u"), "holds an empty dict"),
  ],
)
def test_modules_that_are_none_are_refused(tmp_path, data, message):
  _write_archive(tmp_path / "m.pt", data)
  with pytest.raises(ReadError, match=message):
    read_checkpoint(tmp_path / "m.pt")


def test_other_formats_are_named(tmp_path):
  legacy = tmp_path / "old.pth"
  legacy.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"...")
  with pytest.raises(ReadError, match=r"before 1\.6\. Re-save it .*torch\.save"):
    read_checkpoint(legacy)
  with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
    archive.writestr("readme.txt", "")
  with pytest.raises(ReadError, match=r"other\.zip is a zip file with neither"):
    read_checkpoint(tmp_path / "other.zip")
  for content, message in (
    ([1], "holds a list; expected a dict"),
    ({"model": {}}, "holds an empty dict"),
    ({"model": {"w": 3}}, "'w' is a int; expected an array"),
    ({3: np.ones(1)}, "has the key 3"),
  ):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ReadError, match=message):
      read_checkpoint(tmp_path / "m.pkl")


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", BFLOAT16, "i8", "i4", "u1", "?"], ids=str)
def test_safetensors_of_every_kind(tmp_path, dtype):
  arrays = {
    "matrix": np.array([[0, 1, 3], [5, 0, 9]]).astype(dtype),
    "scalar": np.array(7).astype(dtype),
    "empty": np.zeros((0, 4), dtype),
  }
  path = tmp_path / "m.weights"
  safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
  read = read_checkpoint(path)
  assert read.keys() == arrays.keys()
  for name, value in arrays.items():
    assert read[name].dtype == value.dtype and read[name].shape == value.shape
    np.testing.assert_array_equal(read[name], value)


def _write_safetensors(path, header, data):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)
  return path


@pytest.mark.parametrize(
  "changes",
  [
    {"data_offsets": [4, 16]},  # a hole
    {"data_offsets": [0, 16], "shape": [4]},  # more than there is
    {"shape": [2]},
    {"shape": [2**62, 2**62]},
    {"shape": [-3]},
    {"dtype": "F8_E4M3", "shape": [12]},  # which NumPy has no type for
    {"dtype": "F33"},
  ],
)
def test_safetensors_that_lie_are_refused(tmp_path, changes):
  entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | changes
  path = _write_safetensors(tmp_path / "m.safetensors", {"w": entry}, bytes(12))
  with pytest.raises(ReadError, match=r"m\.safetensors is no readable safetensors file: .+ Fetch"):
    read_checkpoint(path)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 80), value=st.integers(0, 255), cut=st.integers(0, 80))
def test_no_damage_to_safetensors_breaks_out(tmp_path_factory, position, value, cut):
  """Whatever the header says: arrays inside the data, or a ReadError."""
  path = tmp_path_factory.getbasetemp() / "changed.safetensors"
  entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
  content = bytearray(_write_safetensors(path, {"w": entry}, bytes(12)).read_bytes())
  content[position % len(content)] = value
  path.write_bytes(content[: len(content) - (cut if cut < 40 else 0)])
  try:
    arrays = read_checkpoint(path)
  except ReadError as error:
    assert "changed.safetensors" in str(error)
  else:
    assert sum(array.nbytes for array in arrays.values()) <= 12
