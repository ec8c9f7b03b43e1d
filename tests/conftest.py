"""Settings for all tests: CPU with 8 fake devices, shape checks at run time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("TQDM_DISABLE", "1")

from jaxtyping import install_import_hook

# Shape annotations are checked in tests only; in use they are documentation.
install_import_hook(["rkd_jax.ops", "rkd_jax.losses"], "beartype.beartype")
