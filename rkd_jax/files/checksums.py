"""Digests that say whether two runs had the same teacher."""

import hashlib
import os
from typing import Any

import jax
import numpy as np


def of_file(path: str | os.PathLike) -> str:
  """SHA-256 of a file's bytes, as `sha256sum` prints it."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def of_arrays(variables: Any) -> str:
  """SHA-256 of a tree of arrays: paths, shapes and values."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    array = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()
