"""Worker processes that prepare images, and their results in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


class _Pool(ProcessPoolExecutor):
  def __exit__(self, exception_type, exception, traceback):
    # After an error nobody asks for what still waits.
    self.shutdown(cancel_futures=True)


def process_pool(
  workers: int | None = None, setup: Callable[[], None] | None = None
) -> ProcessPoolExecutor:
  """Workers, by default one per CPU; never forked, since JAX has threads.

  `setup` is called once in each of them, before anything else.
  """
  context = multiprocessing.get_context("spawn")
  return _Pool(workers or os.cpu_count(), context, _start, (setup,))


def _start(setup: Callable[[], None] | None) -> None:
  # Ctrl-C reaches all processes of a terminal: the parent alone decides what ends.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def end_with_parent():
    # A killed run leaves no workers behind, which would wait for tasks for ever.
    parent.join()
    os._exit(1)

  threading.Thread(target=end_with_parent, daemon=True).start()
  if setup is not None:
    setup()


def in_order(
  executor: Executor, function: Callable[..., _T], tasks: Iterable[tuple], ahead: int
) -> Iterator[_T]:
  """`function` of each task, in their order, with at most `ahead` of them under way.

  So is the first error, whether `function` raises it or the iterator of the tasks.
  """
  waiting = deque()
  for future in _submitted(executor, function, tasks):
    waiting.append(future)
    if len(waiting) >= ahead:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


def _submitted(executor, function, tasks) -> Iterator[Future]:
  try:
    for task in tasks:
      yield executor.submit(function, *task)
  except Exception as error:
    # Its turn comes after the results of the tasks before it.
    failed = Future()
    failed.set_exception(error)
    yield failed
