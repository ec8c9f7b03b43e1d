"""Google's Scenic, found or asked for."""

import sys
import types

import pytest

from rkd_jax.machine.scenic import import_from_scenic


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch):
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.delenv("SCENIC_PATH", raising=False)
  for name in list(sys.modules):
    if name.partition(".")[0] == "scenic":
      monkeypatch.delitem(sys.modules, name)


def _clone(folder, *modules):
  for module in modules:
    path = folder.joinpath(*module.split("."))
    path.mkdir(parents=True, exist_ok=True)
    for package in (path, *path.parents):
      if package == folder:
        break
      (package / "__init__.py").touch()
  return str(folder)


def test_folders_of_the_path_are_looked_in_in_their_order(tmp_path, monkeypatch):
  first = _clone(tmp_path / "a", "scenic.projects.found")
  second = _clone(tmp_path / "b", "scenic.projects.hidden")
  monkeypatch.setenv("SCENIC_PATH", f"{first}:{second}")
  assert import_from_scenic("scenic.projects.found", "x").__file__.startswith(first)
  assert sys.path[:2] == [first, second]
  for name in list(sys.modules):
    if name.partition(".")[0] == "scenic":
      monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("module", [None, types.ModuleType("scenic")], ids=["none", "PyPI's"])
def test_without_it_the_message_says_what_to_clone(monkeypatch, module):
  monkeypatch.setitem(sys.modules, "scenic", module)
  with pytest.raises(ImportError) as raised:
    import_from_scenic("scenic.app", "--this")
  said = str(raised.value)
  assert said.startswith("--this needs Google's Scenic") and "(PyPI's `scenic` is another" in said
  assert "google-research/scenic and" in said and "google-research/big_vision" in said
  assert "export SCENIC_PATH=FOLDER/scenic:FOLDER/big_vision" in said
