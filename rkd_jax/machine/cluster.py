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
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from rkd_jax.files.json_checks import differences

_CONNECT_S = 10
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
  _watch(coordinator and coordinator.rpartition(":")[0])
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
      heartbeat_timeout_seconds=config.timeout_seconds,
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


def _watch(host: str | None) -> None:
  """From now on this process ends with a sentence as soon as another one has ended.

  JAX alone notices, too, but after a while and with the stack of its own process; so it still does
  where a host is cut off, or where no connection of our own is possible.
  """
  if jax.process_count() == 1:
    return
  token = secrets.token_hex(16)
  server, connections = None, []
  if is_first():
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    server = socket.create_server(("", 0), **(both if socket.has_dualstack_ipv6() else {}))
    _of_first(json.dumps([host or socket.gethostname(), server.getsockname()[1], token]))
  else:
    host, port, token = json.loads(_of_first(""))
    try:
      connections.append(socket.create_connection((host, port), _CONNECT_S))
    except OSError:
      return
    connections[0].settimeout(None)
    connections[0].sendall(token.encode())
  threading.Thread(target=_guard, args=(server, token, connections), daemon=True).start()


def _guard(server: socket.socket | None, token: str, connections: list[socket.socket]) -> None:
  """Waits for the end of one connection, over which nothing is sent but, at first, the token."""
  ready = set()
  with selectors.DefaultSelector() as waiting:
    for one in connections if server is None else [server]:
      waiting.register(one, selectors.EVENT_READ)
    while ready <= {server}:
      if server in ready:
        connection, _ = server.accept()
        connection.settimeout(_CONNECT_S)
        with contextlib.suppress(OSError):
          if connection.recv(len(token)) == token.encode():
            waiting.register(connection, selectors.EVENT_READ)
      ready = {key.fileobj for key, _ in waiting.select()}
  if not _leaving.is_set():
    print(
      "Another process of this run has ended, so that this one cannot go on: its own output says "
      "why. Start all of them again; training goes on from the newest checkpoint.",
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
