"""Settings for all tests: CPU with 8 fake devices, shape checks at run time, quick compilation.

Compiling takes most of the tests' time and optimising most of that, so it is left out, except in
modules that say COMPILED_AS_IN_USE = True: those that compare with what the originals compute.
There also the forms for a single CPU device are taken.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of programs that tests start, too

import jax
import pytest
from jaxtyping import install_import_hook

# Shape annotations are checked in tests only; in use they are documentation.
install_import_hook(["rkd_jax.ops", "rkd_jax.losses"], "beartype.beartype")


@pytest.fixture(autouse=True, scope="module")
def compilation(request):
  quick = jax.config.read("jax_disable_most_optimizations")
  as_in_use = getattr(request.module, "COMPILED_AS_IN_USE", False)
  jax.config.update("jax_disable_most_optimizations", quick and not as_in_use)
  with pytest.MonkeyPatch.context() as patch:
    if as_in_use:
      patch.setattr("rkd_jax.ops.parts._single_cpu", lambda: True)
      patch.setattr("rkd_jax.models.rcnn._PIXELS", 1)  # small images, too, one by one
    yield
  jax.config.update("jax_disable_most_optimizations", quick)
