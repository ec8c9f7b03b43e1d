"""How fast a training loop goes, and a trace of some of its steps; nothing waits for a device."""

import contextlib
import os
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

import jax

from rkd_jax.files import storage

PROFILE_FOLDER = "profile"
_T = TypeVar("_T")


class Pace:
  """Counts the images of a loop and its arithmetic, and the time in which it waits for images.

  By the clock of the host, which runs at most a step ahead of the devices.

  Args:
    peak: FLOP a second of all devices together; 0 if that is not known.
  """

  def __init__(self, peak: float = 0.0):
    self._peak = peak
    self._begin()

  def _begin(self) -> None:
    self._steps, self._images, self._flops, self._waited = 0, 0, 0, 0.0
    self._start, self._thread_start = time.monotonic(), time.thread_time()

  def timed(self, batches: Iterable[_T]) -> Iterator[_T]:
    """The same batches; the time until each is there counts as waiting."""
    iterator = iter(batches)
    while True:
      before = time.monotonic()
      try:
        batch = next(iterator)
      except StopIteration:
        return
      finally:
        self._waited += time.monotonic() - before
      yield batch

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """A block that is no part of the loop: the time that it takes is not counted."""
    before, thread_before = time.monotonic(), time.thread_time()
    yield
    self._start += time.monotonic() - before
    self._thread_start += time.thread_time() - thread_before

  def count(self, images: int, flops: int = 0) -> None:
    self._steps += 1
    self._images += images
    self._flops += flops

  def figures(self) -> dict[str, float]:
    """Since the last call: images a second and the part of the time that went into waiting.

    `host_seconds` is the processor time of this thread per step: what the loop itself does.
    `mfu` is the part of the peak that was used; absent where that is not known.
    `device_bytes` and `device_peak_bytes` are the memory in use now and the most so far, of the
    local device that has most; absent where the platform does not say (CPUs).
    """
    seconds = max(time.monotonic() - self._start, 1e-9)
    found = {
      "images_per_second": self._images / seconds,
      "data_wait": self._waited / seconds,
      "host_seconds": (time.thread_time() - self._thread_start) / max(self._steps, 1),
    }
    if self._peak:
      found["mfu"] = self._flops / seconds / self._peak
    self._begin()
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    for name, key in (("device_bytes", "bytes_in_use"), ("device_peak_bytes", "peak_bytes_in_use")):
      if values := [own[key] for own in stats if key in own]:
        found[name] = max(values)
    return found


def traced(
  steps: Iterable[_T], start: int, profile_steps: tuple[int, int] | None, workdir: str | os.PathLike
) -> Generator[_T, None, None]:
  """The same steps, the first of them number `start`, with a trace of some in `workdir/profile`.

  A trace of steps (first, end) holds first to end - 1.  It ends when step end + 1 is asked for: a
  loop that reads the results of each step during the next one has read them by then.

  Raises:
    ValueError: `profile_steps` is neither None nor two such numbers.
  """
  if profile_steps and (len(profile_steps) != 2 or not 0 <= profile_steps[0] < profile_steps[1]):
    raise ValueError(
      f"profile_steps is {tuple(profile_steps)}; expected the first step and the one after the "
      "last, as (100, 103)."
    )
  return _traced(steps, start, *(profile_steps or (-1, -1)), storage.path(workdir) / PROFILE_FOLDER)


def _traced(steps, start, first, end, folder):
  with contextlib.ExitStack() as trace:
    for step, item in enumerate(steps, start):
      if step == end + 1:
        trace.close()
      if step == max(first, start) and step < end:
        local = storage.work_folder(folder)
        trace.callback(_send, local, folder)
        trace.enter_context(jax.profiler.trace(local))
      yield item


def _send(local, folder):
  for file in local.rglob("*"):
    if file.is_file():
      storage.put(file, folder / file.relative_to(local))
