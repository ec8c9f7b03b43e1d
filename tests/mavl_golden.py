"""The original's arrays, and its weights, which a formula regenerates."""

import functools
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"

# The token table is cut to the rows that are read: most of the text encoder's memory is in it.
_ROWS = [0, 1, 2, 8, 1250, 2335, 7097, 8720, 8866, 24449]
VOCAB_SIZE = len(_ROWS)
# Fixed ids that stand for these captions; they were never checked against a vocabulary.
TOKEN_IDS = {
  caption: [_ROWS.index(row) for row in rows]
  for caption, rows in {
    "all objects": [0, 1250, 8720, 2],
    "every dog": [0, 24449, 2335, 2],
    "all visible objects and entities": [0, 1250, 7097, 8720, 8, 8866, 2],
  }.items()
}


@functools.cache
def arrays() -> dict[str, np.ndarray]:
  with np.load(GOLDEN / "mavl.npz") as file:
    return dict(file)


def standard_normal(key: str, shape) -> np.ndarray:
  state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
  return state.standard_normal(shape).astype(np.float32)


class StateDict(Mapping):
  """The original's state dict; an entry is drawn when it is read, so that one is held at a time."""

  def __init__(self):
    manifest = json.loads((GOLDEN / "mavl.manifest.json").read_text())
    self._entries = {entry["name"]: entry for entry in manifest["params"]}

  def __getitem__(self, name):
    entry = self._entries[name]
    if "alias_of" in entry:
      return self[entry["alias_of"]]
    if name.endswith("word_embeddings.weight"):
      value = standard_normal(name, (_ROWS[-1] + 1, entry["shape"][1]))[_ROWS]
    else:
      value = standard_normal(name, entry["shape"])
    value *= np.float32(entry["scale"])
    value += np.float32(entry["offset"])
    if "post_add" in entry:
      value[tuple(entry["post_add"]["index"])] += np.float32(entry["post_add"]["value"])
    return value

  def __iter__(self):
    return iter(self._entries)

  def __len__(self):
    return len(self._entries)


def assert_near(actual, expected, tolerance=1e-5):
  actual = np.asarray(actual)
  assert actual.shape == expected.shape
  error = np.abs(actual - expected).max() / np.abs(expected).max()
  assert error < tolerance, f"off by {error:.2e} of the largest value"
