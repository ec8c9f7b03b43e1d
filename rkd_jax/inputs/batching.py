"""Batches of records: iterators for training and evaluation.

Grain's threads decide when a batch is made, never what is in it: that is the sampler's
(which records) and `examples`' (what one becomes).
"""

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import logging
from grain.experimental import ThreadPrefetchIterDataset

from rkd_jax import structures
from rkd_jax.inputs import transforms
from rkd_jax.inputs.examples import EXAMPLE_OF_KIND, BatchSpec, Canvas, Example, collate
from rkd_jax.inputs.plan import AnySource, Plan
from rkd_jax.inputs.sampler import host_rows
from rkd_jax.records.sources import Record, Source, open_image


class _Loader:
  """Reads the records of one source for one spec, with the cache and the count of bad images."""

  def __init__(
    self, source: AnySource, spec: BatchSpec, skip_bad_images: bool, cache=False, standing=None
  ):
    self._source, self._spec, self._standing = source, spec, standing
    self._cache = {} if cache else None
    self._skip = skip_bad_images
    self._bad = set()
    self._lock = threading.Lock()

  def _load(self, index: int) -> tuple[Record, transforms.Pixels | None]:
    """The record and its image, None if the image is bad and may be skipped."""
    if self._cache is not None and index in self._cache:
      return self._cache[index]
    record = self._source[index]
    try:
      image = open_image(record)
    except ValueError as error:
      if not self._skip:
        raise
      with self._lock:
        if index not in self._bad:
          self._bad.add(index)
          logging.warning("Skipped bad image (%d so far): %s", len(self._bad), error)
      return record, None
    if self._cache is not None:
      size = self._spec.fixed_size((record.height, record.width))
      # An array takes three quarters of the memory.
      image = np.asarray(image if size is None else transforms.resize(image, size))
      record = dataclasses.replace(record, image=b"")
      self._cache[index] = record, image
    return record, image

  def example(self, index: int, spec: BatchSpec, out: Canvas, rng=None) -> Example | None:
    """Example of one record, or None for a bad image that is to be skipped."""
    record, image = self._load(index)
    return None if image is None else EXAMPLE_OF_KIND[spec.kind](record, image, spec, rng, out)

  def replaced_example(
    self, index: int, spec: BatchSpec, out: Canvas, rng: np.random.Generator
  ) -> Example:
    """As `example`, but a bad image gives way to the next good record of its orientation."""
    count, standing = len(self._source), self._standing
    for other in itertools.chain(range(index, count), range(index)):
      alike = standing is None or standing[other] == standing[index]
      if alike and (example := self.example(other, spec, out, rng)) is not None:
        return example
    raise ValueError(
      f"None of the {count} images of the source that may take the place of image {index} can be "
      "decoded: build it again."
    )


def _batches(numbers: range, load: Callable, threads: int) -> grain.IterDataset:
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  dataset = grain.MapDataset.range(numbers.start, numbers.stop, numbers.step)
  return dataset.map(load).to_iter_dataset(options)


def train_batches(
  plan: Plan,
  start_step: int,
  num_steps: int,
  *,
  host_index: int = 0,
  host_count: int = 1,
  threads: int = 2,
  cache: bool = False,
  skip_bad_images: bool = False,
  place: Callable[[Example], Any] | None = None,
) -> Iterator[tuple[int, str, Any]]:
  """Batches of the steps start_step .. num_steps - 1, in order.

  Args:
    plan: which records each step reads, and what its batch holds.
    start_step: first step (0, or where a run resumes).
    num_steps: end of training, not included.
    host_index, host_count: which of how many equal shares of every batch is loaded here.
    threads: batches prepared at the same time; 0 prepares them when they are asked for.
    cache: keep decoded images in memory (small data sets), resized if the spec has one size.
    skip_bad_images: replace an image that cannot be decoded by the next good record, with
      a counted warning, rather than stop.
    place: what to make of each batch, such as arrays on devices, by one thread ahead of time.

  Yields:
    (step, kind, batch); an `Example` of NumPy arrays, or what `place` makes of it.

  Raises:
    ValueError: a batch cannot be made; names the record and the remedy.
  """
  specs, sampler = plan.specs, plan.sampler
  loaders, rows = {}, {}
  for kind in set(plan.schedule):
    rows[kind] = host_rows(specs[kind].batch_size, host_index, host_count)
    source, standing = plan.sources[kind], sampler.standing.get(kind)
    loaders[kind] = _Loader(source, specs[kind], skip_bad_images, cache, standing)

  def load(step: int) -> tuple[int, str, Example]:
    step = int(step)
    kind, indices = sampler.kind(step), sampler.indices(step)
    spec = specs[kind].for_batch(sampler.stands(step), sampler.rng(step))
    images = np.zeros((len(rows[kind]), *spec.canvas, 3), np.uint8)
    examples = [
      loaders[kind].replaced_example(int(indices[row]), spec, out, sampler.rng(step, row))
      for row, out in zip(rows[kind], images, strict=True)
    ]
    return step, kind, collate(examples, images)

  batches = _batches(range(start_step, num_steps), load, threads)
  if place is None:
    return iter(batches)
  placed = batches.map(lambda item: (*item[:2], place(item[2])))
  # One waits while another is placed: devices hold two batches more than they compute with.
  return iter(ThreadPrefetchIterDataset(placed, prefetch_buffer_size=min(threads, 1)))


def eval_batches(
  source: Source,
  spec: BatchSpec,
  host_index: int = 0,
  host_count: int = 1,
  *,
  threads: int = 2,
  skip_bad_images: bool = False,
) -> Iterator[structures.Batch]:
  """Every record once, in order; valid = False has a row that only fills up the last batch.

  With `skip_bad_images` that of a bad image has it, too.  Of several hosts each takes every
  `host_count`-th batch, from that numbered `host_index` on.

  Raises:
    ValueError: a batch cannot be made; names the record and the remedy.
  """
  if spec.kind != "eval":
    raise ValueError(f"eval_batches needs a BatchSpec of kind 'eval', not {spec.kind!r}.")
  loader = _Loader(source, spec, skip_bad_images)
  filler = structures.Batch(
    images=None,
    sizes=np.array(spec.canvas, np.int32),
    original_sizes=np.array(spec.canvas, np.int32),
    image_ids=np.array(0, np.int32),
    valid=np.array(False),
  )

  def load(number: int) -> structures.Batch:
    images = np.zeros((spec.batch_size, *spec.canvas, 3), np.uint8)
    examples = [
      loader.example(index, spec, out) if index < len(source) else None
      for index, out in enumerate(images, start=int(number) * spec.batch_size)
    ]
    return collate([filler if example is None else example for example in examples], images)  # pyright: ignore[reportReturnType]

  batches = -(-len(source) // spec.batch_size)
  return iter(_batches(range(host_index, batches, host_count), load, threads))
