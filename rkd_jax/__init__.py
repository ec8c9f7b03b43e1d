"""Region-based knowledge distillation for open-vocabulary detection, in JAX."""

import os

__version__ = "0.1.0"

for _folder in ("configs", "data"):
  if not os.path.isdir(os.path.join(__path__[0], _folder)):
    raise ImportError(
      f"rkd_jax/{_folder} is no folder: in the repository it is a symbolic link to ../{_folder}, "
      "which archives and Git on Windows can lose. Clone with git -c core.symlinks=true, or copy "
      f"the folder {_folder} to that place."
    )
