"""Google's Scenic, where a clone of it can be imported.

It is no package of an index: the one called `scenic` there is a language for scenarios.  A clone is
found through PYTHONPATH, or through SCENIC_PATH, folders separated as in PYTHONPATH.
"""

import importlib
import os
import sys
import types

_INSTALL = (
  "needs Google's Scenic, which is no package of an index (PyPI's `scenic` is another thing): "
  "git clone https://github.com/google-research/scenic and "
  "git clone https://github.com/google-research/big_vision, which cannot be installed by pip; "
  "export SCENIC_PATH=FOLDER/scenic:FOLDER/big_vision; and pip install clu tensorflow. "
  "docs/scenic.md says more"
)


def import_from_scenic(module: str, who: str) -> types.ModuleType:
  """A module of Scenic, for whoever needs it; an ImportError says how to get it."""
  for folder in reversed(os.environ.get("SCENIC_PATH", "").split(os.pathsep)):
    if folder and folder not in sys.path:
      sys.path.insert(0, folder)
  try:
    importlib.import_module("scenic.projects")  # The other package has none.
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(f"{who} {_INSTALL}. ({error})") from error
