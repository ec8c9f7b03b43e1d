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
from jaxtyping import Float, Int

from rkd_jax.inputs import repeats

# Draws with replacement come in blocks of so many, each with a generator of its own.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Repeats:
  """How often the records of a kind come: their repeat factors and one of `repeats.FORMS`."""

  factors: Float[np.ndarray, "n"]
  form: str

  def __post_init__(self):
    if self.form not in repeats.FORMS:
      raise ValueError(f"The form of repeats is {self.form!r}; expected one of {repeats.FORMS}.")
    if not (np.isfinite(self.factors).all() and (self.factors > 0).all()):
      raise ValueError("Repeat factors must be finite and positive.")

  @functools.cached_property
  def cumulative(self) -> Float[np.ndarray, "n"]:
    """Share of the draws that go to the records up to each; ends at 1."""
    weights = repeats.mixture_weights([len(self.factors)], [1.0], [self.factors])
    return np.cumsum(weights) / np.sum(weights)


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


@functools.lru_cache(maxsize=16)
def _rounded_epoch(seed: int, kind: str, epoch: int, own: Repeats) -> Int[np.ndarray, "m"]:
  """The records of an epoch of the stochastic form, in order."""
  rng = _generator(seed, f"repeats of {kind}", epoch)
  order = rng.permutation(repeats.rounded_repeats(own.factors, rng))
  order.setflags(write=False)
  return order


@functools.lru_cache(maxsize=16)
def _independent_draws(seed: int, kind: str, block: int, own: Repeats) -> Int[np.ndarray, "m"]:
  """A block of draws of the fractional form."""
  numbers = _generator(seed, f"draws of {kind}", block).random(_BLOCK)
  # Rounding may leave the last of the shares a little below 1.
  draws = np.searchsorted(own.cumulative, numbers, side="right")
  return np.minimum(draws, len(own.factors) - 1)


@functools.cache
def _epoch_start(seed: int, kind: str, epoch: int, own: Repeats) -> int:
  """Number of draws before an epoch of the stochastic form.  Asked for in ascending order."""
  if epoch == 0:
    return 0
  return _epoch_start(seed, kind, epoch - 1, own) + len(_rounded_epoch(seed, kind, epoch - 1, own))


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
    repeats: kind -> repeat factors of its records; kinds without are drawn evenly.

  The draws of one kind walk through an endless sequence of epochs, each a fresh
  permutation of all records: no record is dropped at the end of an epoch, and a
  batch may hold the end of one epoch and the beginning of the next.  With repeats of the
  stochastic form an epoch holds a record as often as its factor says, rounded at random, so
  that epochs differ in length; in the fractional form every draw is independent.
  """

  seed: int
  schedule: tuple[str, ...]
  sizes: Mapping[str, tuple[int, int]]
  repeats: Mapping[str, Repeats] = dataclasses.field(default_factory=dict)

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
      if kind in self.repeats and len(self.repeats[kind].factors) != num_records:
        raise ValueError(
          f"Kind {kind!r} has {num_records} records, but {len(self.repeats[kind].factors)} repeat "
          "factors: compute them from the same records."
        )

  def kind(self, step: int) -> str:
    """Kind of the batch at this step."""
    return self.schedule[step % len(self.schedule)]

  def indices(self, step: int) -> Int[np.ndarray, "b"]:
    """Record numbers of the global batch at this step, in row order."""
    kind = self.kind(step)
    _, batch_size = self.sizes[kind]
    cycles, offset = divmod(step, len(self.schedule))
    earlier = cycles * self.schedule.count(kind) + self.schedule[:offset].count(kind)
    start = earlier * batch_size
    stop = start + batch_size
    pieces = []
    while start < stop:
      draws, first = self._draws(kind, start)
      piece = draws[first : first + stop - start]
      pieces.append(piece)
      start += len(piece)
    return np.concatenate(pieces)

  def _draws(self, kind: str, position: int) -> tuple[Int[np.ndarray, "m"], int]:
    """The epoch (or block) of draws of a kind that holds a position, and where in it."""
    own = self.repeats.get(kind)
    if own is None:
      num_records, _ = self.sizes[kind]
      epoch, first = divmod(position, num_records)
      return _permutation(self.seed, kind, epoch, num_records), first
    if own.form == "fractional":
      block, first = divmod(position, _BLOCK)
      return _independent_draws(self.seed, kind, block, own), first
    epoch = 0
    while _epoch_start(self.seed, kind, epoch + 1, own) <= position:
      epoch += 1
    first = position - _epoch_start(self.seed, kind, epoch, own)
    return _rounded_epoch(self.seed, kind, epoch, own), first

  def rng(self, step: int, row: int | None = None) -> np.random.Generator:
    """Randomness for augmentation: of the whole step, or of one row of the global batch."""
    return _generator(self.seed, "augmentation", step, 0 if row is None else row + 1)
