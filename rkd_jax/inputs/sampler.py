"""Which records form the batch at step t: a pure function of (seed, t).

Nothing here has state that a run could lose: resuming needs only the step, and
the number of hosts may change between runs, because every host computes the
same global list of records and then takes its own rows of it.
"""

import dataclasses
import functools
import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int


def _generator(seed: int, stream: str, *position: int) -> np.random.Generator:
  """Philox generator of the named stream, started at a position (at most two numbers).

  Seed and stream are the key; the position fills the upper half of Philox' 256-bit
  counter, so that different positions can never run into one another.
  """
  position = (*position, 0, 0)[:2]
  key = np.array([seed, zlib.crc32(stream.encode())], np.uint64)
  counter = np.array([0, 0, *position], np.uint64)
  return np.random.Generator(np.random.Philox(key=key, counter=counter))


@functools.lru_cache(maxsize=16)
def _permutation(seed: int, kind: str, epoch: int, num_records: int) -> Int[np.ndarray, "n"]:
  order = _generator(seed, f"order of {kind}", epoch).permutation(num_records)
  order.setflags(write=False)
  return order


def host_rows(batch_size: int, host_index: int, host_count: int) -> slice:
  """Rows of a global batch that one host reads.

  Raises:
    ValueError: the hosts cannot share the batch equally, or there is no such host.
  """
  if not 0 <= host_index < host_count:
    raise ValueError(f"host_index is {host_index}, but there are {host_count} hosts (0-based).")
  if batch_size % host_count:
    raise ValueError(
      f"Batch size {batch_size} is not divisible by {host_count} hosts: "
      "choose a batch size that is a multiple of the number of hosts."
    )
  rows = batch_size // host_count
  return slice(host_index * rows, (host_index + 1) * rows)


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Deterministic interleaving of several kinds of batches.

  Attributes:
    seed: any integer in [0, 2**64).
    schedule: kinds of successive steps, repeated for ever, e.g. ('box', 'box', 'image').
    sizes: kind -> (number of records, global batch size).

  The draws of one kind walk through an endless sequence of epochs, each a fresh
  permutation of all records: no record is dropped at the end of an epoch, and a
  batch may hold the end of one epoch and the beginning of the next.
  """

  seed: int
  schedule: tuple[str, ...]
  sizes: Mapping[str, tuple[int, int]]

  def __post_init__(self):
    if not 0 <= self.seed < 2**64:
      raise ValueError(f"seed is {self.seed}; expected an integer in [0, 2**64).")
    if not self.schedule:
      raise ValueError("The schedule is empty: name at least one kind of batch.")
    for kind in self.schedule:
      if kind not in self.sizes:
        raise ValueError(f"The schedule names {kind!r}, but sizes has only {sorted(self.sizes)}.")
      num_records, batch_size = self.sizes[kind]
      if num_records < 1 or batch_size < 1:
        raise ValueError(
          f"Kind {kind!r} has {num_records} records and batch size {batch_size}; both must be >= 1."
        )

  def kind(self, step: int) -> str:
    """Kind of the batch at this step."""
    return self.schedule[step % len(self.schedule)]

  def indices(self, step: int) -> Int[np.ndarray, "b"]:
    """Record numbers of the global batch at this step, in row order."""
    kind = self.kind(step)
    num_records, batch_size = self.sizes[kind]
    cycles, offset = divmod(step, len(self.schedule))
    earlier = cycles * self.schedule.count(kind) + self.schedule[:offset].count(kind)
    start = earlier * batch_size
    stop = start + batch_size
    pieces = []
    while start < stop:
      epoch, first = divmod(start, num_records)
      piece = _permutation(self.seed, kind, epoch, num_records)[first : first + stop - start]
      pieces.append(piece)
      start += len(piece)
    return np.concatenate(pieces)

  def rng(self, step: int, row: int | None = None) -> np.random.Generator:
    """Randomness for augmentation: of the whole step, or of one row of the global batch."""
    return _generator(self.seed, "augmentation", step, 0 if row is None else row + 1)
