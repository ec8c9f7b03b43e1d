"""Several processes of one run on this machine, which end by themselves."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_REPOSITORY = Path(__file__).parents[1]
SECONDS = 400  # on a busy machine; each needs some 20


class Processes:
  """Python with arguments and those that tell each process which it is, killed after the block.

  Args:
    logs: folder for what they write.
    arguments: such as "-m", "rkd_jax.main", and flags; `--coordinator=`, `--process_id=` and
      `--process_count=` follow.
    count: the number of processes.
    devices: fake devices of each.
    flags_of: what single processes are given behind all others.
  """

  def __init__(
    self,
    logs: Path,
    *arguments: str,
    count: int = 2,
    devices: int = 1,
    flags_of: Mapping[int, Sequence[str]] | None = None,
  ):
    self._logs, self._arguments, self._count, self._devices = logs, arguments, count, devices
    self._flags_of = flags_of or {}

  def __enter__(self):
    with socket.create_server(("localhost", 0)) as server:
      coordinator = f"--coordinator=localhost:{server.getsockname()[1]}"
    flags = re.sub(r"(device_count)=\d+", rf"\1={self._devices}", os.environ["XLA_FLAGS"])
    environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    self._logs.mkdir(exist_ok=True)
    self._stack, self.processes = contextlib.ExitStack(), []
    for index in range(self._count):
      place = coordinator, f"--process_id={index}", f"--process_count={self._count}"
      command = [sys.executable, *self._arguments, *place, *self._flags_of.get(index, ())]
      # Files, since nobody reads while the processes run.
      with self._log(index, "out").open("w") as out, self._log(index, "err").open("w") as err:
        process = subprocess.Popen(
          command,
          cwd=_REPOSITORY,
          env=environment | {"XLA_FLAGS": flags},
          stdout=out,
          stderr=err,
        )
      self.processes.append(self._stack.enter_context(process))
      self._stack.callback(process.kill)
    return self

  def __exit__(self, *_):
    self._stack.close()

  def wait(self, seconds: float = SECONDS) -> list[int]:
    """The exit codes."""
    limit = time.monotonic() + seconds
    return [process.wait(max(limit - time.monotonic(), 0.1)) for process in self.processes]

  def said(self) -> list[tuple[str, str]]:
    """What each wrote to its standard output, where the collectives write too, and error."""
    return [
      (self._log(index, "out").read_text(), self._log(index, "err").read_text())
      for index in range(self._count)
    ]

  def _log(self, index: int, name: str) -> Path:
    return self._logs / f"{index}.{name}"


def run(logs: Path, *arguments: str, **options) -> list[subprocess.CompletedProcess]:
  """Runs `Processes` to their ends; what each did."""
  with Processes(logs, *arguments, **options) as started:
    codes = started.wait()
  return [
    subprocess.CompletedProcess(arguments, code, *said)
    for code, said in zip(codes, started.said(), strict=True)
  ]
