"""The command rkd-jax, as a user meets it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rkd_jax import __version__, cli

REPOSITORY = Path(__file__).parents[1]


def _run(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "rkd_jax.cli", *arguments],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    capture_output=True,
    text=True,
    check=False,
  )


def test_help_names_every_verb_and_needs_no_jax(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "jax", None)
  monkeypatch.setattr(sys, "argv", ["rkd-jax"])
  cli.main()
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in lines if line.startswith("  rkd-jax")] == list(cli.VERBS)
  monkeypatch.setattr(sys, "argv", ["rkd-jax", "--version"])
  cli.main()
  assert capsys.readouterr().out == f"{__version__}\n"


def test_an_unknown_verb_names_the_known_ones(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["rkd-jax", "trian"])
  with pytest.raises(SystemExit, match="no verb 'trian'; there are: train, eval, predict"):
    cli.main()


def test_one_program_can_import_every_command():
  for module, _, _ in cli.VERBS.values():
    assert importlib.import_module(f"rkd_jax.{module}").__doc__


def test_a_verb_runs_in_a_folder_with_packages_of_our_folders_names(tmp_path):
  for name in ("data", "configs", "tests"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise ImportError('not meant')\n")
  done = _run("predict", "--help", folder=tmp_path)
  assert "Finds what words name" in done.stdout and "--class_embeddings" in done.stdout
  done = _run("eval", "--config=demo:base", f"--workdir={tmp_path}/run", folder=tmp_path)
  assert "Build it with: python -m rkd_jax.data.shapes_ovd" in done.stderr.splitlines()[-1]
