"""The safetensors reader: what it reads, and headers that lie."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rkd_jax.files.torch_reader import ReadError, read_checkpoint


def write(path, header, data=b""):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)
  return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
  "kind, dtype",
  [
    *(("F64", "f8"), ("F32", "f4"), ("F16", "f2"), ("BF16", jnp.bfloat16)),
    *(("I64", "i8"), ("I32", "i4"), ("U8", "u1"), ("BOOL", "?")),
  ],
)
def test_arrays_of_every_kind(tmp_path, kind, dtype):
  values = np.array([[0, 1, 3], [5, 0, 9]]).astype(dtype)
  scalar = np.array(7).astype(dtype)
  split = values.nbytes
  header = {
    "__metadata__": {"format": "pt"},
    "scalar": entry(kind, (), (split, split + scalar.nbytes)),
    "matrix": entry(kind, (2, 3), (0, split)),
    "empty": entry(kind, (0, 4), (split, split)),
  }
  path = write(tmp_path / "m.safetensors", header, values.tobytes() + scalar.tobytes())
  read = read_checkpoint(path)
  assert list(read) == ["scalar", "matrix", "empty"]
  assert {array.dtype for array in read.values()} == {np.dtype(dtype)}
  np.testing.assert_array_equal(read["matrix"], values)
  np.testing.assert_array_equal(read["scalar"], scalar)
  assert read["empty"].shape == (0, 4)


@pytest.mark.parametrize(
  "header, message",
  [
    ({"w": entry(offsets=(4, 12))}, "overlap or leave a hole at byte 0"),
    ({"w": entry(offsets=(0, 16), shape=(4,))}, "'w' ends at byte 16 of 12"),
    ({"w": entry(shape=(3,), offsets=(0, 8))}, r"12 bytes of float32 \[3\] cannot lie at \[0, 8\]"),
    ({"w": entry(shape=(2**62, 2**62))}, "cannot lie at"),
    ({"w": entry(shape=(-2,))}, "must be counts"),
    ({"w": entry(shape=(2.0,))}, "must be counts"),
    ({"w": entry(shape=(True, 2))}, "must be counts"),
    ({"w": entry(offsets=(8, 0))}, "cannot lie at"),
    ({"w": entry(offsets=(0, 8, 8))}, "cannot lie at"),
    ({"w": entry("F8_E4M3")}, "dtype 'F8_E4M3'; known are F64"),
    ({"w": entry() | {"more": 1}}, "expected dtype, shape and data_offsets"),
    ({"w": 3}, "expected dtype, shape and data_offsets"),
    ({"w": entry(), "v": entry()}, "overlap or leave a hole"),
    ({"w": entry()}, "4 bytes at the end belong to no entry"),
    (b'{"w": 1, "w": 2}', "names an entry twice"),
    (b'{"w": ', "not valid JSON"),
    (b'{"w":' + b"[" * 100_000, "not valid JSON"),
    (b'{"\xff": 1}', "not valid JSON"),
  ],
)
def test_headers_that_lie_are_refused(tmp_path, header, message):
  path = write(tmp_path / "m.safetensors", header, bytes(12))
  with pytest.raises(ReadError, match=rf"m\.safetensors: .*{message}"):
    read_checkpoint(path)


def test_a_file_that_is_cut_off(tmp_path):
  path = tmp_path / "m.safetensors"
  path.write_bytes((1000).to_bytes(8, "little") + b'{"w": ')
  with pytest.raises(ReadError, match="6 of its 1000 bytes; the file is cut off"):
    read_checkpoint(path)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 80), value=st.integers(0, 255))
def test_no_changed_byte_breaks_out(tmp_path_factory, position, value):
  """Whatever the header says: arrays inside the data, or a ReadError."""
  path = tmp_path_factory.getbasetemp() / "changed.safetensors"
  write(path, {"w": entry("F32", (3,), (0, 12))}, bytes(12))
  content = bytearray(path.read_bytes())
  content[position % len(content)] = value
  path.write_bytes(content)
  try:
    arrays = read_checkpoint(path)
  except ReadError as error:
    assert "changed.safetensors" in str(error)
  else:
    assert sum(array.nbytes for array in arrays.values()) <= 12
