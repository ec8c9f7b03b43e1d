"""Settings for all tests: CPU with 8 fake devices, shape checks at run time, quick compilation.

Compiling takes most of the tests' time and optimising much of that, so it is left out.  Modules
that say SINGLE_DEVICE = True, those that compare with what the originals compute, take the forms
for a single CPU device instead, and with --full they are optimised.
"""

import os
import subprocess
import sys


def _known(flag: str) -> bool:
  """True if this jaxlib has a flag of XLA: a process that is given an unknown one dies."""
  client = "from jaxlib import xla_client; xla_client.make_cpu_client()"
  command, environment = [sys.executable, "-c", client], {**os.environ, "XLA_FLAGS": flag}
  return not subprocess.run(command, env=environment, capture_output=True, check=False).returncode


# Without these emitters (jaxlib before 0.12), half of what compiling takes; for all modules.
QUICK = "--xla_cpu_use_fusion_emitters=false"
DEVICES = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if DEVICES not in os.environ.get("XLA_FLAGS", ""):  # in a worker they are there
  more = [DEVICES, QUICK] if _known(QUICK) else [DEVICES]
  os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *more])
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of programs that tests start, too

import jax
import pytest
from jaxtyping import install_import_hook

# Shape annotations are checked in tests only; in use they are documentation.
install_import_hook(["rkd_jax.ops", "rkd_jax.losses"], "beartype.beartype")


def pytest_addoption(parser):
  parser.addoption("--full", action="store_true", help="all cases, compiled as in use")
  parser.addoption("--topology", default="", help="tests/plan compiles for it, as v5e:2x2")


def pytest_collection_modifyitems(config, items):
  if not config.getoption("full"):
    skip = pytest.mark.skip(reason="takes long and is much like its neighbours: run with --full")
    for item in items:
      if item.get_closest_marker("full"):
        item.add_marker(skip)
  # The modules that take longest first, so that workers end together.
  items.sort(key=lambda item: not getattr(item.module, "SINGLE_DEVICE", False))


@pytest.fixture(autouse=True, scope="module")
def compilation(request):
  quick = jax.config.read("jax_disable_most_optimizations")
  single = getattr(request.module, "SINGLE_DEVICE", False)
  optimised = single and request.config.getoption("full")
  jax.config.update("jax_disable_most_optimizations", quick and not optimised)
  with pytest.MonkeyPatch.context() as patch:
    if single:
      patch.setattr("rkd_jax.machine.target._single_cpu", lambda: True)
      patch.setattr("rkd_jax.models.detector.rcnn._PIXELS", 1)  # small images, too, one by one
    yield
  jax.config.update("jax_disable_most_optimizations", quick)
