"""Scenic's interfaces, from a stand-in, for as long as a test runs."""

import sys
from pathlib import Path

import pytest
import tiny

STAND_IN = Path(__file__).parents[1] / "scenic_stand_in"


@pytest.fixture
def nothing_imported(monkeypatch):
  """Before and after, neither Scenic nor `rkd_jax.scenic` has been imported."""

  def forget():
    for name in list(sys.modules):
      if name == "scenic" or name.startswith(("scenic.", "rkd_jax.scenic")):
        del sys.modules[name]

  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.delenv("SCENIC_PATH", raising=False)
  forget()
  yield
  forget()


@pytest.fixture
def scenic(nothing_imported, monkeypatch):
  """`rkd_jax.scenic` can be imported, with the stand-in."""
  monkeypatch.setenv("SCENIC_PATH", str(STAND_IN))


@pytest.fixture(scope="session")
def root(tmp_path_factory):
  """Where the records and results of `tiny` are."""
  root = tmp_path_factory.mktemp("tiny")
  tiny.build_data(root)
  return root
