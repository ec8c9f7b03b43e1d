"""One run per workdir: on a disk by the system's lock, on an object store by a lease."""

import json
import os
import subprocess
import sys

import object_store
import pytest

from rkd_jax.files import storage
from rkd_jax.runs import lock
from rkd_jax.runs.lock import LOCK_FILE, WorkdirInUseError, locked

_HOLDER = """
import sys
from rkd_jax.runs.lock import locked
with locked(sys.argv[1]):
  print("locked", flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(lock, "LEASE_S", 0.6)
  monkeypatch.setattr(lock, "_SETTLE_S", 0.01)


@pytest.fixture(params=["disk", "store"])
def place(request, tmp_path, monkeypatch, quick):
  if request.param == "disk":
    return str(tmp_path / "run")
  object_store.install()
  monkeypatch.setenv("RKD_JAX_CACHE", str(tmp_path / "cache"))
  return f"gs://bucket/{tmp_path.name}"


def test_a_second_one_is_told_who_has_it(place):
  with locked(place) as check:
    check()
    with pytest.raises(WorkdirInUseError, match=rf"process {os.getpid()} on .* since 2"):
      locked(place).__enter__()
  with locked(place):
    pass


def test_death_releases_it(tmp_path):
  command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
  with subprocess.Popen(command, **pipes) as holder:
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(WorkdirInUseError, match=f"process {holder.pid} on"), locked(tmp_path):
      pass
    holder.kill()
  with locked(tmp_path):
    pass


def _leave_lease(place, **changed):
  file = storage.path(place) / LOCK_FILE
  holder = {"host": "elsewhere", "pid": 1, "since": "2026-01-01", "id": "x", "beat": 3}
  storage.write(file, json.dumps(holder | changed))


@pytest.mark.parametrize("place", ["store"], indirect=True)
def test_a_lease_that_nobody_renews_ends(place, caplog):
  _leave_lease(place)
  with locked(place) as check:
    check()
  assert "lease of process 1 on elsewhere" in caplog.records[0].getMessage()
  assert not (storage.path(place) / LOCK_FILE).exists()


@pytest.mark.parametrize("place", ["store"], indirect=True)
def test_a_lease_of_a_process_that_died_here_is_not_waited_for(place, caplog):
  with subprocess.Popen([sys.executable, "-c", ""]) as gone:
    pass
  _leave_lease(place, **lock._this_host(), pid=gone.pid)
  with locked(place):
    assert not caplog.records


@pytest.mark.parametrize("place", ["store"], indirect=True)
def test_who_lost_its_lease_stops_writing(place):
  with locked(place) as check:
    _leave_lease(place)
    for thread in lock.threading.enumerate():
      if thread.name == "lease":
        thread.join(5)
    with pytest.raises(WorkdirInUseError, match="process 1 on elsewhere"):
      check()
  assert (storage.path(place) / LOCK_FILE).exists()  # it is the other one's
