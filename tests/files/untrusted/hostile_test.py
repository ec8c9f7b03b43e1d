"""Hostile files: each is refused in words, with 1 GB of memory and 10 seconds at the most."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hostile_files
import pytest
from limited_reader import read_all

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
  folder = tmp_path_factory.mktemp("hostile")
  pairs = []
  for name, (reader, _, write) in hostile_files.CASES.items():
    (folder / name).write_bytes(write())
    pairs.append((reader, folder / name))
  return dict(zip(hostile_files.CASES, read_all(pairs), strict=True))


@pytest.mark.parametrize("name", hostile_files.CASES)
def test_a_hostile_file_is_refused_in_words(outcomes, name):
  found, message = outcomes[name], hostile_files.CASES[name][1]
  assert found["outcome"] == "refused", found
  assert name in found["message"] and re.search(message, found["message"]), found["message"]
  assert len(found["message"]) < 1000
  assert found["seconds"] < 9


def test_no_change_to_a_valid_file_breaks_out():
  """3,000 changed files: each gives arrays bounded by its size, or is refused by its name."""
  tests = Path(__file__).parents[2]
  done = subprocess.run(
    [sys.executable, tests / "fuzz_files.py", "0", "3000"],
    cwd=tests.parent,
    env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])},
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  )
  result = json.loads(done.stdout)
  assert result.pop("failures") == []
  assert result.keys() == {"read", "refused", "slowest", "grown_kb"}
  assert min(result["read"], result["refused"]) > 100
  assert result["slowest"] < 2 and result["grown_kb"] < 200_000
