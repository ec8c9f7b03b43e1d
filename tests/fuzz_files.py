"""Valid files, changed at random: a program that reads thousands of them within 1 GB.

  python tests/fuzz_files.py SEED COUNT

Prints a line of JSON: how many were read and refused, and those that did neither.
"""

import io
import json
import pickle
import resource
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import hostile_files
import numpy as np
import safetensors.numpy
from limited_reader import MEMORY, outcome

from rkd_jax.data.published_teachers import read_pseudo_boxes, read_regions
from rkd_jax.files.torch_writer import pickle_tensors, write_pth
from rkd_jax.files.untrusted.archives import read_arrays
from rkd_jax.files.untrusted.torch_reader import ReadError, read_checkpoint, read_objects
from rkd_jax.vocabulary import class_embeddings

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)


def bytes_of(write):
  with tempfile.TemporaryDirectory() as folder:
    write(Path(folder) / "file.npz")
    return (Path(folder) / "file.npz").read_bytes()


def repacked(data, change):
  """An archive with one entry changed, and its directory and checksums made anew."""
  with zipfile.ZipFile(io.BytesIO(data)) as file:
    entries = [(entry.filename, file.read(entry)) for entry in file.infolist()]
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as file:
    for number, (name, content) in enumerate(entries):
      file.writestr(name, change(content) if number == 0 else content)
  return buffer.getvalue()


def samples():
  """(reader, bytes) of valid files."""
  module = b"c__torch__\nNet\n)\x81}(X\1\0\0\0w" + hostile_files.tensor((2,), (1,), numel=2)
  module += b"X\1\0\0\0mc__torch__\nSub\n)\x81}bub"
  regions = [([0, 1, 2, 3], np.ones((1, 4), np.float32)), ([0.5, 1, 2, 3], np.zeros((1, 4)))]
  boxes = {17: ([np.array([1, 2, 3, 4])], [np.float32(0.9)]), "salient": ([], [])}
  rows, names = np.ones((2, 4), np.float32), ("cat", "dog")
  checkpoint, compressed = io.BytesIO(), io.BytesIO()
  np.savez(checkpoint, **ARRAYS)
  np.savez_compressed(compressed, **ARRAYS)
  array = io.BytesIO()
  np.save(array, np.asfortranarray(ARRAYS["a.weight"]))
  found = [
    ("checkpoint", bytes_of(lambda path: write_pth(path, ARRAYS))),
    ("checkpoint", hostile_files.archive(module, {"0": bytes(8)})),
    ("checkpoint", checkpoint.getvalue()),
    ("checkpoint", compressed.getvalue()),
    ("checkpoint", safetensors.numpy.save(ARRAYS)),
    ("arrays", array.getvalue()),
    ("embeddings", bytes_of(lambda path: class_embeddings.save(path, names, "a {}", rows))),
    ("objects", pickle_tensors([(1, 2), ARRAYS["a.weight"]])),
    ("regions", pickle_tensors(regions)),
  ]
  for protocol in (0, 1, 2, 4):
    content = {"model": ARRAYS, "__author__": "someone", "more": [{1.5, "x"}, None, 2**70]}
    found.append(("checkpoint", pickle.dumps(content, protocol=protocol)))
    found.append(("pseudo_boxes", pickle.dumps(boxes, protocol=protocol)))
  return found


def changed(data, others, rng):
  """The bytes with one to four changes."""
  data = bytearray(data)
  for _ in range(rng.choice([1, 1, 1, 2, 4])):
    if not data:
      break
    at, kind = int(rng.integers(len(data))), rng.choice([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 6])
    if kind == 0:
      data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
      data[at] = int(rng.integers(256))
    elif kind == 2:
      del data[at:]
    elif kind == 3:
      other = others[rng.integers(len(others))][1]
      begin = int(rng.integers(len(other)))
      data[at : at + int(rng.integers(9))] = other[begin : begin + int(rng.integers(40))]
    elif kind == 4:
      begin = int(rng.integers(len(data)))
      data[at:at] = data[begin : begin + int(rng.integers(60))]
    elif kind == 5:
      del data[at : at + int(rng.integers(1, 9))]
    else:
      width = int(rng.choice([1, 2, 4, 8]))
      number = EXTREMES[rng.integers(len(EXTREMES))] % 2 ** (8 * width)
      data[at : at + width] = number.to_bytes(width, "little")
  return bytes(data)


def main(seed: int, count: int):
  readers = {
    "checkpoint": (read_checkpoint, ReadError),
    "objects": (read_objects, ReadError),
    "arrays": (read_arrays, ReadError),
    "embeddings": (class_embeddings.load, ValueError),
    "regions": (read_regions, ValueError),
    "pseudo_boxes": (lambda path: read_pseudo_boxes(path, {17: 0}), ValueError),
  }
  rng, valid, counts, failures = np.random.default_rng(seed), samples(), Counter(), []
  slowest, folder = 0.0, Path(tempfile.mkdtemp())
  pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY,) * 2)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for number in range(count):
    reader, data = valid[number % len(valid)]
    if number >= len(valid):  # The first are as they were.
      if data.startswith(b"PK") and rng.random() < 0.6:
        data = repacked(data, lambda content: changed(content, valid, rng))
      else:
        data = changed(data, valid, rng)
    path = folder / "changed_file.npz"
    path.write_bytes(data)
    start = time.monotonic()
    found = outcome(readers[reader][0], path, readers[reader][1])
    slowest = max(slowest, time.monotonic() - start)
    counts[found["outcome"]] += 1
    bounded = found.get("bytes", 0) <= 16 * len(data) + 2**20
    named = "changed_file" in found.get("message", "changed_file")
    short = len(found.get("message", "")) < 1500
    whole = number >= len(valid) or found["outcome"] == "read"
    if found["outcome"] not in ("read", "refused") or not (bounded and named and short and whole):
      failures.append({"number": number, "reader": reader, **found})
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  result = {**counts, "slowest": slowest, "grown_kb": grown, "failures": failures[:20]}
  print(json.dumps(result))


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]))
