import numpy as np

from rkd_jax.files import checksums


def test_arrays_are_told_apart_by_values_and_names():
  variables = {"a": np.arange(3.0), "b": np.zeros(2)}
  digest = checksums.of_arrays(variables)
  assert digest == checksums.of_arrays({"b": np.zeros(2), "a": np.arange(3.0)})
  assert digest != checksums.of_arrays({**variables, "b": np.array([0, 1e-30])})
  assert digest != checksums.of_arrays({"a": np.arange(3.0), "c": np.zeros(2)})


def test_a_file_has_the_sha256_of_its_bytes(tmp_path):
  (tmp_path / "f").write_bytes(b"abc")
  expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  assert checksums.of_file(tmp_path / "f") == expected
