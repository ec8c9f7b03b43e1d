"""The house: imports go down, rooms are not crowded, files are not long."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MODULES = [
  path for top in ("rkd_jax", "configs", "data") for path in (REPOSITORY / top).rglob("*.py")
]


def test_no_import_breaks_a_contract():
  # A process of its own: import-linter keeps, and closes, what it prints on.
  lint = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
  done = subprocess.run(
    [sys.executable, "-c", lint], cwd=REPOSITORY, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0 and " 0 broken" in done.stdout, done.stdout + done.stderr


def test_the_house_has_at_most_eight_floors():
  settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
  (layers,) = (contract["layers"] for contract in settings["contracts"] if "layers" in contract)
  assert len(layers) <= 8


def test_no_room_has_more_than_twelve_modules():
  rooms = {path.parent for path in MODULES}
  sizes = {str(room): len(list(room.glob("[!_]*.py"))) for room in rooms}
  assert len(sizes) > 20 and not {room for room, size in sizes.items() if size > 12}


def test_at_most_one_file_is_long():
  lengths = {str(path): len(path.read_text().splitlines()) for path in MODULES}
  assert len([length for length in lengths.values() if length > 420]) <= 1, lengths


@pytest.mark.parametrize("name", ["data", "configs", "tests"])
def test_no_module_imports_a_folder_by_its_bare_name(name):
  lines = [line.split() for path in MODULES for line in path.read_text().splitlines()]
  named = [words[1].split(".")[0] for words in lines if words[:1] in (["import"], ["from"])]
  assert len(named) > 1000 and name not in named
