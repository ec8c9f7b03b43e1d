"""How XLA compiles programs that are mostly matrix products."""

import functools

import jax


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
