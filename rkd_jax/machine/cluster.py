"""Several processes that train one model together, on one host or on many.

Each runs the same command.  `joined` makes them know each other before anything touches a device;
from then on JAX sees the devices of all.  A process alone does nothing of all this.
"""

import contextlib
import importlib.util
import json
import os
import pickle
import secrets
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from rkd_jax.files.json_checks import differences

_CONNECT_S = 10
_BEATS = 20  # signs of life within the time that a process may be silent
_PIECE = 1 << 22  # bytes that each device holds at a time while something is sent
_leaving = threading.Event()


def is_first() -> bool:
  """True for the one process that writes what a run has once: its config, metrics, progress."""
  return jax.process_index() == 0


@contextlib.contextmanager
def joined(
  config: ml_collections.ConfigDict,
  coordinator: str | None = None,
  process_id: int | None = None,
  process_count: int | None = None,
) -> Iterator[None]:
  """A block that all processes of a run are in, or this one alone.

  Without the three arguments JAX finds the others where it knows how: on TPU pods, in SLURM steps,
  under Open MPI, in indexed jobs of Kubernetes.  A process that leaves the block by an error ends
  at once, and so do then all others.

  Args:
    config: `config.hosts`; `start_seconds` bounds the wait for the others, `timeout_seconds` how
      long one of them may give no sign of life.
    coordinator: HOST:PORT of process 0, where nothing listens yet.
    process_id: 0 .. process_count - 1.
    process_count: 1 is a process alone, wherever it runs.

  Raises:
    ValueError: arguments that do not go together, or the cluster cannot be joined.
  """
  given = (coordinator, process_id, process_count)
  if process_count == 1 or (given == (None,) * 3 and not (_in_cluster() or _has_tpu())):
    yield
    return
  if given != (None,) * 3:
    if coordinator is None or process_id is None or process_count is None:
      raise ValueError("--coordinator, --process_id and --process_count go together: give all.")
    if not coordinator.rpartition(":")[2].isdigit() or not 0 <= process_id < process_count:
      raise ValueError(
        f"--coordinator={coordinator} --process_id={process_id} --process_count={process_count}: "
        "expected HOST:PORT of process 0, and ids from 0 to the count less 1."
      )
  if not _initialize(config, *given):
    yield
    return
  _watch(coordinator and coordinator.rpartition(":")[0], config.timeout_seconds)
  try:
    yield
  except BaseException as error:
    # Exit codes are agreed upon; of anything else the others know nothing, and would wait.
    if not (isinstance(error, SystemExit) and isinstance(error.code, int)):
      traceback.print_exception(error)
      sys.stderr.flush()
      os._exit(1)
    _leave()
    raise
  _leave()


def _in_cluster() -> bool:
  """Whether this is one of several processes, by what their launchers document."""
  found = os.environ
  if "SLURM_STEP_NODELIST" in found:
    return int(found.get("SLURM_NTASKS", 1)) > 1
  if "KUBERNETES_SERVICE_HOST" in found and "JOB_COMPLETION_INDEX" in found:
    return importlib.util.find_spec("kubernetes") is not None
  return int(found.get("OMPI_COMM_WORLD_SIZE", 1)) > 1


def _has_tpu() -> bool:
  """Whether JAX is to use TPUs, which it chooses by itself on a machine that has some."""
  return "tpu" in (getattr(jax.config, "jax_platforms", None) or "").split(",")


def _initialize(config, coordinator, process_id, process_count) -> bool:
  """Meets the other processes; False if JAX finds that there are none."""
  place = coordinator or "process 0"

  def give_up():
    print(
      f"After {config.start_seconds} s not all processes of this run have met at {place}: start "
      "all of them, with one --process_count and an id each, and see whether they reach it (or "
      "set config.hosts.start_seconds).",
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)

  # Later JAX would abort the process and say that another one died.
  timer = threading.Timer(config.start_seconds, give_up)
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      coordinator,
      process_count,
      process_id,
      cluster_detection_method="deactivate" if coordinator else None,
      initialization_timeout=config.start_seconds + 60,
      # JAX may give a process up after half of that; `_guard` is to speak first.
      heartbeat_timeout_seconds=2 * config.timeout_seconds,
      shutdown_timeout_seconds=config.timeout_seconds,
    )
  except Exception as error:
    if isinstance(error, ValueError) and not (coordinator or _in_cluster()):
      return False
    raise ValueError(
      f"The processes of this run cannot meet at {place}: {error}. Give each of them "
      "--coordinator=HOST:PORT with a free port, --process_id and --process_count, or "
      "--process_count=1 to a process alone."
    ) from error
  finally:
    timer.cancel()
  return True


def _leave() -> None:
  """Waits until all processes are here, so that no end of one is taken for a loss."""
  _leaving.set()
  jax.distributed.shutdown()


def _watch(host: str | None, seconds: float) -> None:
  """From now on this process ends with a sentence as soon as another one has ended, or is silent.

  JAX alone notices, too, but later and with the stack of its own process; so it still does where
  no connection of our own is possible.
  """
  if jax.process_count() == 1:
    return
  token = secrets.token_hex(16)
  server, others = None, {}
  if is_first():
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    server = socket.create_server(("", 0), **(both if socket.has_dualstack_ipv6() else {}))
    _of_first(json.dumps([host or socket.gethostname(), server.getsockname()[1], token]))
  else:
    host, port, token = json.loads(_of_first(""))
    try:
      first = socket.create_connection((host, port), _CONNECT_S)
    except OSError:
      return
    first.sendall(f"{token} {jax.process_index()}\n".encode())
    others[first] = 0
  threading.Thread(target=_guard, args=(server, token, others, seconds), daemon=True).start()


def _guard(
  server: socket.socket | None, token: str, others: dict[socket.socket, int], seconds: float
) -> None:
  """Sends signs of life to all others, and sees that theirs come.

  Args:
    server: where they connect with the token and their ids, on the first process.
    others: the ids of those that are connected.
    seconds: how long one may be silent, counted in beats of this process: those during which it was
      stopped itself do not count.
  """
  beat, silent = seconds / _BEATS, dict.fromkeys(others, 0)
  with selectors.DefaultSelector() as waiting:
    for one in [server] if server else others:
      waiting.register(one, selectors.EVENT_READ)
    due = time.monotonic() + beat
    while True:
      for key, _ in waiting.select(max(due - time.monotonic(), 0)):
        one = key.fileobj
        if one is server:
          one, _ = server.accept()
          if (index := _introduced(one, token)) is not None:
            others[one], silent[one] = index, 0
            waiting.register(one, selectors.EVENT_READ)
        elif _read(one):
          silent[one] = 0
        elif _leaving.is_set():
          waiting.unregister(one)
          del others[one]
        else:
          _end(
            "Another process of this run has ended, so that this one cannot go on: its own output "
            "says why."
          )
      if time.monotonic() < due:
        continue
      due = time.monotonic() + beat
      for one, index in others.items():
        with contextlib.suppress(OSError):
          one.send(b".")
        silent[one] += 1
        if silent[one] >= _BEATS and not _leaving.is_set():
          _end(
            f"Process {index} of this run has given no sign of life for {seconds:g} s "
            "(config.hosts.timeout_seconds), so that this one cannot go on: its host hangs or is "
            "cut off. End what is left of it."
          )


def _introduced(connection: socket.socket, token: str) -> int | None:
  """The id that a process gives with the token; None of a stranger."""
  connection.settimeout(_CONNECT_S)
  with contextlib.suppress(OSError), connection.makefile("rb") as file:
    given, _, index = file.readline(100).partition(b" ")
    if given == token.encode():
      return int(index)
  connection.close()
  return None


def _read(connection: socket.socket) -> bytes:
  """What has come, at least something; nothing at the end."""
  try:
    return connection.recv(1024)
  except OSError:
    return b""


def _end(reason: str) -> None:
  print(
    f"{reason} Start all of them again; training goes on from the newest checkpoint.",
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def _of_first(text: str) -> str:
  """The text that process 0 has."""
  content = np.frombuffer(text.encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
  content = np.pad(content[:length], (0, max(length - len(content), 0)))
  return multihost_utils.broadcast_one_to_all(content).tobytes().decode()


def of_first(number: int) -> int:
  """The number that process 0 gives; below 2**63."""
  return int(_of_first(str(number)))


@contextlib.contextmanager
def together() -> Iterator[None]:
  """A block of work that no process leaves half-way through a collective: all go on, or none.

  The error of the first process that has one is shown there, and all exit with 1.
  """
  failure = None
  try:
    yield
  except Exception as error:
    if jax.process_count() == 1:
      raise
    failure = error
  if jax.process_count() > 1:
    failed = multihost_utils.process_allgather(np.array(failure is not None))
    if failure is not None and np.argmax(failed) == jax.process_index():
      traceback.print_exception(failure)
    if failed.any():
      raise SystemExit(1)


def check_same(settings: Mapping[str, Any]) -> None:
  """Refuses processes whose settings, as JSON, are not those of process 0."""
  if jax.process_count() == 1:
    return
  first = json.loads(_of_first(json.dumps(settings)))
  with together():
    if differing := list(differences(first, settings)):
      raise ValueError(
        f"Process {jax.process_index()} was started with other settings than process 0: "
        f"{', '.join(differing[:5])}. Start all with the same command, or with --process_count=1 "
        "each for a run of its own."
      )


def sent_to_first(content: Any) -> list[Any]:
  """On the first process, what each of the others gives; elsewhere nothing.

  All call it.  Contents are pickled, and travel one after the other, in pieces of 4 MiB.
  """
  pickled = []
  for sender in range(1, jax.process_count()):
    mine = sender == jax.process_index()
    data = np.frombuffer(pickle.dumps(content), np.uint8) if mine else np.zeros(0, np.uint8)
    pieces = multihost_utils.broadcast_one_to_all(np.int32(-(-len(data) // _PIECE)), mine)
    received = []
    for start in range(0, int(pieces) * _PIECE, _PIECE):
      piece = data[start : start + _PIECE]
      piece = np.pad(piece, (0, _PIECE - len(piece)))
      piece = multihost_utils.broadcast_one_to_all(piece, mine)
      if jax.process_index() == 0:
        received.append(piece.tobytes())
    pickled.append(b"".join(received))
  # What fills up the last piece is not read.
  return [pickle.loads(one) for one in pickled if one]
