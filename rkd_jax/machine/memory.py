"""Memory that compilation has freed goes back to the system."""

import ctypes
import functools
import sys

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
# Smaller programs leave little behind, and there are many.
_SECONDS = 1.0


@functools.cache
def return_memory_after_compiling() -> None:
  """From now on, what compiling a program has freed is returned before the program runs.

  XLA's compiler for CPUs works in many small blocks, which glibc keeps when they are freed: half
  a gigabyte or more beside what a training step then needs.  Other C libraries are left alone.
  """
  library = ctypes.CDLL(None) if sys.platform == "linux" else None
  trim = getattr(library, "malloc_trim", None)
  if trim is None:
    return

  def listener(event: str, seconds: float, **_) -> None:
    if event == _EVENT and seconds > _SECONDS:
      trim(0)

  jax.monitoring.register_event_duration_secs_listener(listener)
