import io

import numpy as np
import pytest

from rkd_jax.files.untrusted.archives import read_arrays, read_arrays_of
from rkd_jax.files.untrusted.reading import ReadError


@pytest.mark.parametrize(
  "array",
  [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(6).reshape(3, 2)[::2].T,
    np.arange(3, dtype=">i2"),
    np.float16(7),
    np.array(["red kite", "cat", "Mädchen"]),
    np.array("one"),
    np.array([], "U1"),
    np.zeros((0, 4), np.float32),
    np.array([True, False]),
  ],
)
def test_arrays_are_those_of_numpy(tmp_path, array):
  np.save(tmp_path / "a.npy", array)
  np.savez(tmp_path / "a.npz", a=array, b=array)
  np.savez_compressed(tmp_path / "c.npz", a=array)
  found = [read_arrays(tmp_path / "a.npy"), *read_arrays(tmp_path / "a.npz").values()]
  found += [*read_arrays(tmp_path / "c.npz").values()]
  found += [read_arrays_of((tmp_path / "a.npy").read_bytes(), "elsewhere")]
  assert len(found) == 5
  for value in found:
    np.testing.assert_array_equal(value, array)
    assert value.shape == array.shape and value.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_the_format(tmp_path, version):
  with (tmp_path / "a.npy").open("wb") as file:
    np.lib.format.write_array(file, np.arange(3), version)
  np.testing.assert_array_equal(read_arrays(tmp_path / "a.npy"), [0, 1, 2])


def test_headers_of_python_2():
  header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 1L), }"
  data = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(8)
  assert read_arrays_of(data, "old").shape == (2, 1)


def test_other_content_is_named():
  buffer = io.BytesIO()
  np.save(buffer, np.array([1j]))
  with pytest.raises(ReadError, match=r"f\.npy: 'its array' has the type '<c16'"):
    read_arrays_of(buffer.getvalue(), "f.npy")
  with pytest.raises(ReadError, match=r"f\.npy is neither \.npz nor \.npy"):
    read_arrays_of(b"text", "f.npy")
  buffer = io.BytesIO()
  np.save(buffer, np.arange(9))
  with pytest.raises(ReadError, match=r"has 62 bytes, its header asks for 72 .* Fetch it again"):
    read_arrays_of(buffer.getvalue()[:-10], "f.npy")
