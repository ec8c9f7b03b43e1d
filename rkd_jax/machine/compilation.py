"""How XLA compiles programs that are mostly matrix products, and the memory that it then frees."""

import ctypes
import functools
import sys

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
# Smaller programs leave little behind, and there are many.
_SECONDS = 1.0


@functools.cache
def matmul_options(platform: str) -> dict[str, str]:
  """Options for `jax.jit(..., compiler_options=...)` of programs for a platform.

  On a CPU XLA gives matrix products to YNNPACK, with which CLIP's ViT-B/32 took 4 to 10 % longer
  than with XLA's other kernels, those of Eigen.  Nothing is asked of other platforms, nor of a
  version of XLA that does not know the option.
  """
  options = {"xla_cpu_experimental_ynn_fusion_type": ""}
  if platform != "cpu":
    return {}
  try:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
      jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if "No such compile option" not in str(error):
      raise
    return {}
  return options


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
