"""One workdir, one run: a lock that says who has it, and that death releases.

On a disk, local or NFS, the operating system keeps the lock and drops it when the process ends.  An
object store has no locks: there the file is a lease, which its holder renews.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import logging
from etils import epath

from rkd_jax.files import storage

LOCK_FILE = "run.lock"
# A holder that has not renewed its lease for so long is taken to be dead.
LEASE_S = 60.0
_RENEWALS = 6  # within that time
_SETTLE_S = 2.0  # longer than a small file takes to be written


class WorkdirInUseError(ValueError):
  """Another process writes this workdir."""


@contextlib.contextmanager
def locked(workdir: str | os.PathLike) -> Iterator[Callable[[], None]]:
  """A block in which no other process that asks for it writes this workdir.

  Gives a function that raises WorkdirInUseError if the lock was lost meanwhile, which happens to
  leases of processes that were stopped for long.

  Raises:
    WorkdirInUseError: another process has it; names host, process and since when.
  """
  place = storage.path(workdir)
  place.mkdir(parents=True, exist_ok=True)
  holder = {
    **_this_host(),
    "pid": os.getpid(),
    "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "id": secrets.token_hex(8),
  }
  with contextlib.ExitStack() as stack:
    if storage.is_remote(place):
      check = stack.enter_context(_lease(place, holder))
    else:
      try:
        check = stack.enter_context(_flock(Path(place), holder))
      except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
          raise
        check = stack.enter_context(_lease(place, holder))
    yield check


@contextlib.contextmanager
def _flock(workdir: Path, holder: dict) -> Iterator[Callable[[], None]]:
  with (workdir / LOCK_FILE).open("a+", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise _in_use(workdir, _parsed(file.read())) from None
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()
    yield lambda: None
    # The file stays: another process may have opened it already.
    file.truncate(0)


@contextlib.contextmanager
def _lease(workdir: epath.Path, holder: dict) -> Iterator[Callable[[], None]]:
  file = workdir / LOCK_FILE
  _wait_for_death(workdir, _read(file))
  beat = 0

  def renew() -> None:
    nonlocal beat
    beat += 1
    storage.write(file, json.dumps(holder | {"beat": beat}))

  def mine() -> bool:
    return (_read(file) or {}).get("id") == holder["id"]

  renew()
  # Of several that saw it free, the last to write has it.
  time.sleep(_SETTLE_S)
  if not mine():
    raise _in_use(workdir, _read(file))
  done, lost = threading.Event(), threading.Event()

  def keep() -> None:
    while not done.wait(LEASE_S / _RENEWALS):
      try:
        if not mine():
          lost.set()
          return
        renew()
      except OSError as error:
        logging.warning("%s cannot be renewed: %s. It is tried again.", file, error)

  def check() -> None:
    if lost.is_set():
      raise _in_use(workdir, _read(file))

  thread = threading.Thread(target=keep, name="lease", daemon=True)
  thread.start()
  try:
    yield check
  finally:
    done.set()
    thread.join()
    if not lost.is_set():
      file.unlink(missing_ok=True)


def _wait_for_death(workdir: epath.Path, found: dict | None) -> None:
  """Returns once a lease that was found is certain to be of a dead process, or there is none."""
  if found is None or _is_dead(found):
    return
  logging.warning(
    "%s has a lease of process %s on %s; waiting up to %.0f s to see whether it is renewed.",
    workdir,
    found.get("pid"),
    found.get("host"),
    LEASE_S,
  )
  # By what changes, not by clocks, which differ from host to host.
  until = time.monotonic() + LEASE_S
  while time.monotonic() < until:
    time.sleep(LEASE_S / _RENEWALS / 2)
    now = _read(workdir / LOCK_FILE)
    if now is None:
      return
    if now != found:
      raise _in_use(workdir, now)


def _is_dead(found: dict) -> bool:
  """True of a process of this host that is no more; of others nothing is known."""
  here = _this_host()
  if {key: found.get(key) for key in here} != here or not isinstance(found.get("pid"), int):
    return False
  try:
    os.kill(found["pid"], 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    return False
  return False


def _this_host() -> dict[str, str]:
  """The name, and what no other machine of that name has, nor this one after it starts anew."""
  boot = Path("/proc/sys/kernel/random/boot_id")
  return {"host": socket.gethostname(), "boot": boot.read_text() if boot.exists() else ""}


def _read(file: epath.Path) -> dict | None:
  try:
    return _parsed(file.read_text())
  except FileNotFoundError:
    return None


def _parsed(text: str) -> dict:
  """The holder that a lock file names; {} while it is being written."""
  try:
    found = json.loads(text)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _in_use(workdir: Path | epath.Path, found: dict | None) -> WorkdirInUseError:
  found = found or {}
  return WorkdirInUseError(
    f"{workdir} is in use: process {found.get('pid', '?')} on {found.get('host', '?')} has written "
    f"it since {found.get('since', '?')}. Wait for its end or end it, or give another --workdir."
  )
