"""Which records form the batch at step t: a pure function of (seed, t).

Resuming needs only the step, and the number of hosts may change between runs: every host computes
the same global list of records and then takes its own rows of it.

With repeat factors images of rare classes come more often (Gupta et al., LVIS, 2019).  They are
those of detectron2's `RepeatFactorTrainingSampler`, which repeats an image a whole number of times
per epoch and rounds at random ("stochastic"); its sampler over several data sets draws images with
replacement, as likely as their factors ("fractional").
"""

import dataclasses
import functools
import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from rkd_jax.records.index import Index

FORMS = ("stochastic", "fractional")

# Draws with replacement come in blocks of so many, each with a generator of its own.
_BLOCK = 4096
# Shares of the batches are whole multiples of 1 / _WHOLE, so that counting them is exact.
_WHOLE = 2**53


def repeat_factors(index: Index, threshold: float) -> Float[np.ndarray, "n"]:
  """r(I) = max over the classes c of image I of max(1, sqrt(threshold / f(c))).

  f(c) is the share of images with class c.  An image without classes has factor 1.
  """
  counts = index.image_counts(int(index.classes.max(initial=-1)) + 1)
  share = np.where(counts > 0, counts, 1) / len(index)
  of_class = np.maximum(1.0, np.sqrt(threshold / share))
  factors = np.ones(len(index))
  image = np.repeat(np.arange(len(index)), np.diff(index.starts))
  np.maximum.at(factors, image, of_class[index.classes])
  return factors


@dataclasses.dataclass(frozen=True, eq=False)
class Repeats:
  """How often the records of a kind come: their repeat factors and one of `FORMS`."""

  factors: Float[np.ndarray, "n"]
  form: str

  def __post_init__(self):
    if self.form not in FORMS:
      raise ValueError(f"The form of repeats is {self.form!r}; expected one of {FORMS}.")
    if not (np.isfinite(self.factors).all() and (self.factors > 0).all()):
      raise ValueError("Repeat factors must be finite and positive.")

  @functools.cached_property
  def cumulative(self) -> Float[np.ndarray, "n"]:
    """Share of the draws that go to the records up to each; ends at 1."""
    # Brought to a mean of 1 first: draws depend on the last bit.
    weights = self.factors * (len(self.factors) / self.factors.sum())
    return np.cumsum(weights) / np.sum(weights)

  def rounded(self, rng: np.random.Generator) -> Int[np.ndarray, "m"]:
    """Record numbers of one epoch: each int(factor) times, and once more with its fraction."""
    whole = np.floor(self.factors).astype(np.int64)
    whole += rng.random(len(self.factors)) < self.factors - whole
    return np.repeat(np.arange(len(self.factors)), whole)


def _generator(seed: int, stream: str, *position: int) -> np.random.Generator:
  """Philox generator of the named stream, started at a position (at most two numbers).

  Seed and stream are the key; the position fills the upper half of Philox' 256-bit counter, so that
  different positions can never run into one another.
  """
  key = np.array([seed, zlib.crc32(stream.encode())], np.uint64)
  counter = np.array([0, 0, *(*position, 0, 0)[:2]], np.uint64)
  return np.random.Generator(np.random.Philox(key=key, counter=counter))


@functools.lru_cache(maxsize=32)
def _epoch(
  seed: int, name: str, number: int, size: int, own: Repeats | None
) -> Int[np.ndarray, "m"]:
  """The draws of an epoch, or of a block of independent ones."""
  if own is None:
    return _generator(seed, f"order of {name}", number).permutation(size)
  if own.form == "fractional":
    draws = _generator(seed, f"draws of {name}", number).random(_BLOCK)
    # Rounding may leave the last of the shares a little below 1.
    return np.minimum(np.searchsorted(own.cumulative, draws, side="right"), size - 1)
  rng = _generator(seed, f"repeats of {name}", number)
  return rng.permutation(own.rounded(rng))


@functools.cache
def _epoch_start(seed: int, name: str, number: int, size: int, own: Repeats) -> int:
  """Number of draws before an epoch of the stochastic form.  Asked for in ascending order."""
  if number == 0:
    return 0
  before = seed, name, number - 1, size, own
  return _epoch_start(*before) + len(_epoch(*before))


@dataclasses.dataclass(frozen=True, eq=False)
class _Stream:
  """An endless sequence of records that share batches: all of a kind, or those that lie or stand.

  `records` are their numbers within the kind.
  """

  seed: int
  name: str
  records: Int[np.ndarray, "n"]
  repeats: Repeats | None

  def take(self, start: int, count: int) -> Int[np.ndarray, "count"]:
    """The draws start .. start + count - 1."""
    pieces, stop = [], start + count
    while start < stop:
      draws, first = self._draws(start)
      pieces.append(draws[first : first + stop - start])
      start += len(pieces[-1])
    return self.records[np.concatenate(pieces)]

  def _draws(self, position: int) -> tuple[Int[np.ndarray, "m"], int]:
    """The epoch (or block) of draws that holds a position, and where in it."""
    seed, name, size, own = self.seed, self.name, len(self.records), self.repeats
    if own is None or own.form == "fractional":
      number, first = divmod(position, size if own is None else _BLOCK)
    else:
      number = 0
      while _epoch_start(seed, name, number + 1, size, own) <= position:
        number += 1
      first = position - _epoch_start(seed, name, number, size, own)
    return _epoch(seed, name, number, size, own), first


def host_rows(batch_size: int, host_index: int, host_count: int) -> range:
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
  return range(host_index * rows, (host_index + 1) * rows)


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Deterministic interleaving of several kinds of batches.

  The draws of one kind walk through an endless sequence of epochs, each a fresh permutation of all
  records: none is dropped at the end of an epoch, and a batch may hold the end of one and the
  beginning of the next.  With repeats of the stochastic form an epoch holds a record as often as
  its factor says, rounded at random, so that epochs differ in length; in the fractional form every
  draw is independent.

  Where orientations do not mix, lying and standing records are two such sequences, between which
  the batches of the kind are shared out in proportion to the number (or the factors) of their
  records, as evenly as whole batches can be.  The original fills one queue for each and emits it
  when it is full, which gives the same shares; here a batch needs nothing of the batches before.

  Attributes:
    seed: any integer in [0, 2**64).
    schedule: kinds of successive steps, repeated for ever, e.g. ('box', 'box', 'image').
    sizes: kind -> (number of records, global batch size).
    repeats: kind -> repeat factors of its records; kinds without are drawn evenly.
    standing: kind -> which of its records are not wider than high, for kinds whose batches are
      of one orientation.
  """

  seed: int
  schedule: tuple[str, ...]
  sizes: Mapping[str, tuple[int, int]]
  repeats: Mapping[str, Repeats] = dataclasses.field(default_factory=dict)
  standing: Mapping[str, Bool[np.ndarray, "_"]] = dataclasses.field(default_factory=dict)

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
      factors = self.repeats[kind].factors if kind in self.repeats else None
      for what, of in (("repeat factors", factors), ("orientations", self.standing.get(kind))):
        if of is not None and len(of) != num_records:
          raise ValueError(
            f"Kind {kind!r} has {num_records} records, but {len(of)} {what}: take them from the "
            "index of the same records."
          )

  def kind(self, step: int) -> str:
    """Kind of the batch at this step."""
    return self.schedule[step % len(self.schedule)]

  def stands(self, step: int) -> bool:
    """Whether the batch at this step is one of standing images; never where orientations mix."""
    kind = self.kind(step)
    if kind not in self.standing:
      return False
    earlier = self._earlier(step)
    return self._standing_before(kind, earlier + 1) > self._standing_before(kind, earlier)

  def indices(self, step: int) -> Int[np.ndarray, "b"]:
    """Record numbers of the global batch at this step, in row order."""
    kind, earlier, stands = self.kind(step), self._earlier(step), self.stands(step)
    if kind in self.standing:
      standing = self._standing_before(kind, earlier)
      earlier = standing if stands else earlier - standing
    batch_size = self.sizes[kind][1]
    return self._streams[kind][stands].take(earlier * batch_size, batch_size)

  def rng(self, step: int, row: int | None = None) -> np.random.Generator:
    """Randomness for augmentation: of the whole step, or of one row of the global batch."""
    return _generator(self.seed, "augmentation", step, 0 if row is None else row + 1)

  def _earlier(self, step: int) -> int:
    """Number of batches of this step's kind before it."""
    kind, (cycles, offset) = self.kind(step), divmod(step, len(self.schedule))
    return cycles * self.schedule.count(kind) + self.schedule[:offset].count(kind)

  def _standing_before(self, kind: str, batches: int) -> int:
    """How many of the first batches of a kind are of standing images."""
    share, start = self._shares[kind]
    return (batches * share + start) // _WHOLE

  @functools.cached_property
  def _streams(self) -> dict[str, tuple[_Stream, ...]]:
    """By kind the sequence of its records, or those of its lying and of its standing ones."""
    streams = {}
    for kind in set(self.schedule):
      own = self.repeats.get(kind)
      if kind not in self.standing:
        streams[kind] = (_Stream(self.seed, kind, np.arange(self.sizes[kind][0]), own),)
        continue
      parts = []
      for name, stands in (("lying", False), ("standing", True)):
        records = np.flatnonzero(self.standing[kind] == stands)
        theirs = own and dataclasses.replace(own, factors=own.factors[records])
        parts.append(_Stream(self.seed, f"{name} {kind}", records, theirs))
      streams[kind] = tuple(parts)
    return streams

  @functools.cached_property
  def _shares(self) -> dict[str, tuple[int, int]]:
    """By kind the share of standing batches and where counting them starts, in 1 / _WHOLE."""
    shares = {}
    for kind, standing in self.standing.items():
      own = self.repeats.get(kind)
      weights = np.ones(len(standing)) if own is None else own.factors
      share = float(weights[standing].sum() / weights.sum())
      start = _generator(self.seed, f"orientations of {kind}").integers(_WHOLE)
      shares[kind] = round(share * _WHOLE), int(start)
    return shares
