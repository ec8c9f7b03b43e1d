"""Reads files that may be hostile, each in a process of its own with little memory and time.

As a program: a line of JSON on its standard input has pairs of a reader's name and a path; a line
comes back for each, with what became of it.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SECONDS = 10
MEMORY = 1 << 30


def read_all(pairs):
  """What became of each (reader, path): 'read', 'refused', another error, or 'died'."""
  done = subprocess.run(
    [sys.executable, __file__],
    input=json.dumps([(reader, os.fspath(path)) for reader, path in pairs]),
    cwd=Path(__file__).parents[1],
    env={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[1])},
    capture_output=True,
    text=True,
    check=True,
  )
  return [json.loads(line) for line in done.stdout.splitlines()]


def size_of(found):
  """The bytes of all arrays in what was read."""
  if isinstance(found, np.ndarray):
    return found.nbytes
  if isinstance(found, dict):
    return sum(map(size_of, found.values()))
  return sum(map(size_of, found)) if isinstance(found, list | tuple) else 0


def outcome(read, path, errors):
  """One reading: its outcome, message, and the bytes of its arrays."""
  try:
    return {"outcome": "read", "bytes": size_of(read(path))}
  except errors as error:
    return {"outcome": "refused", "message": str(error)}
  except BaseException as error:
    return {"outcome": type(error).__name__, "message": str(error)[:500]}


def _in_a_child(read, path, errors):
  receive, send = os.pipe()
  if not (child := os.fork()):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.alarm(SECONDS)  # which ends the process
    with contextlib.suppress(BaseException):
      os.write(send, json.dumps(outcome(read, path, errors)).encode()[:60_000])
    os._exit(0)
  os.close(send)
  start = time.monotonic()
  with os.fdopen(receive, "rb") as pipe:
    said = pipe.read()
  os.waitpid(child, 0)
  result = json.loads(said) if said else {"outcome": "died", "message": ""}
  return {**result, "seconds": time.monotonic() - start}


def main():
  from rkd_jax.data.published_teachers import read_pseudo_boxes, read_regions
  from rkd_jax.files.untrusted.archives import read_arrays
  from rkd_jax.files.untrusted.torch_reader import ReadError, read_checkpoint, read_objects
  from rkd_jax.vocabulary import class_embeddings

  readers = {
    "checkpoint": (read_checkpoint, ReadError),
    "objects": (read_objects, ReadError),
    "arrays": (read_arrays, ReadError),
    "embeddings": (class_embeddings.load, ValueError),
    "regions": (read_regions, ValueError),
    "pseudo_boxes": (lambda path: read_pseudo_boxes(path, {17: 0}), ValueError),
  }
  for reader, path in json.loads(sys.stdin.readline()):
    read, errors = readers[reader]
    print(json.dumps(_in_a_child(read, path, errors)))


if __name__ == "__main__":
  main()
