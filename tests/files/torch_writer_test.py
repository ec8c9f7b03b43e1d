"""Files that torch reads, written without it."""

import collections
import io
import pickle
import pickletools
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from pretended_torch import pretended_torch

from rkd_jax.files.torch_writer import write_pth
from rkd_jax.files.untrusted.torch_reader import STORAGES, read_checkpoint

BFLOAT16 = np.dtype(jnp.bfloat16)


def test_what_is_written_comes_back_for_every_type(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {str(d): (rng.normal(size=(2, 3, 4)) * 50).astype(d) for d in STORAGES.values()}
  arrays |= {"scalar": np.float32(4), "empty": np.zeros((0, 2), np.float32), "é": np.ones(2)}
  arrays["transposed"] = arrays["float32"].T
  write_pth(tmp_path / "m.pth", arrays)
  read = read_checkpoint(tmp_path / "m.pth")
  assert list(read) == list(arrays)
  for name, value in arrays.items():
    assert read[name].dtype == value.dtype and read[name].shape == value.shape
    assert read[name].tobytes() == value.tobytes()
  assert read["bfloat16"].dtype == BFLOAT16
  write_pth(tmp_path / "again.pth", read)
  assert (tmp_path / "again.pth").read_bytes() == (tmp_path / "m.pth").read_bytes()


def test_a_written_file_has_the_layout_of_torch_save(tmp_path):
  write_pth(tmp_path / "m.pth", {"w": np.ones((2, 3), np.float32)})
  with zipfile.ZipFile(tmp_path / "m.pth") as archive:
    assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
    entries = {name: archive.read(name) for name in archive.namelist()}
  data = entries.pop("archive/data.pkl")
  assert entries == {
    "archive/byteorder": b"little",
    "archive/version": b"3\n",
    "archive/data/0": np.ones(6, np.float32).tobytes(),
  }
  # torch's own restricted unpickler knows few opcodes.
  assert {op.name for op, _, _ in pickletools.genops(data)} <= {
    *("PROTO", "EMPTY_DICT", "EMPTY_TUPLE", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("BINUNICODE", "BINPUT", "BININT", "BININT1", "BININT2", "NEWFALSE"),
    *("GLOBAL", "REDUCE", "BINPERSID", "SETITEMS", "STOP"),
  }
  with pretended_torch() as torch:

    class Unpickler(pickle.Unpickler):
      def persistent_load(self, identifier):
        return identifier

    content = Unpickler(io.BytesIO(data)).load()
    storage = ("storage", torch.FloatStorage, "0", "cpu", 6)
  assert content == {"w": (storage, 0, (2, 3), (3, 1), False, {})}
  assert type(content["w"][-1]) is collections.OrderedDict


def test_a_type_without_storage_is_named(tmp_path):
  with pytest.raises(ValueError, match="'w' has dtype uint16; expected one of float32"):
    write_pth(tmp_path / "m.pth", {"w": np.ones(2, np.uint16)})
  assert not list(tmp_path.iterdir())
