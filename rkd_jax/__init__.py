"""Region-based knowledge distillation for open-vocabulary detection, in JAX."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from rkd_jax.detect.detector import OpenVocabularyDetector
  from rkd_jax.detect.folder import load, save_pretrained
  from rkd_jax.detect.result import Result

__version__ = "0.1.0"

# The Python interface.  JAX and the rest are imported when the first of it is asked for.
_PUBLIC = {
  "load": "rkd_jax.detect.folder",
  "save_pretrained": "rkd_jax.detect.folder",
  "OpenVocabularyDetector": "rkd_jax.detect.detector",
  "Result": "rkd_jax.detect.result",
}
__all__ = ["OpenVocabularyDetector", "Result", "__version__", "load", "save_pretrained"]

for _folder in ("configs", "data"):
  if not os.path.isdir(os.path.join(__path__[0], _folder)):
    raise ImportError(
      f"rkd_jax/{_folder} is no folder: in the repository it is a symbolic link to ../{_folder}, "
      "which archives and Git on Windows can lose. Clone with git -c core.symlinks=true, or copy "
      f"the folder {_folder} to that place."
    )


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f"module 'rkd_jax' has no attribute {name!r}")
  return getattr(importlib.import_module(_PUBLIC[name]), name)
