"""What stops a loop: garbage collection for a moment, SIGTERM for good."""

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def short_collections() -> Iterator[None]:
  """A block in which garbage collection leaves alone what there is at its beginning.

  Traced and compiled programs are some million objects, and a full collection of them stops the
  loop for 0.2 s.
  """
  gc.collect()
  gc.freeze()
  try:
    yield
  finally:
    gc.unfreeze()


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], bool]]:
  """Says after a step, given their number, whether to stop: SIGTERM came to a process of the run.

  In a cluster JAX receives it, and all processes are to stop after the same step.
  """
  if jax.distributed.is_initialized():
    yield multihost_utils.reached_preemption_sync_point
    return
  received = []
  previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
  try:
    yield lambda step: bool(received)
  finally:
    signal.signal(signal.SIGTERM, previous)
