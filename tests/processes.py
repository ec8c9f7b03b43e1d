"""Several processes of one run on this machine, which end by themselves."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).parents[1]
_SECONDS = 400  # on a busy machine; each needs some 20


def run(*arguments: str, count: int = 2, devices: int = 1) -> list[subprocess.CompletedProcess]:
  """Runs Python, with these arguments and those that tell a process which it is.

  Args:
    arguments: such as "-m", "rkd_jax.main", and flags; `--coordinator=`, `--process_id=` and
      `--process_count=` follow.
    count: the number of processes.
    devices: fake devices of each.

  Returns:
    What each did; to `stdout` the collectives of CPUs have written first.
  """
  with socket.create_server(("localhost", 0)) as server:
    coordinator = f"--coordinator=localhost:{server.getsockname()[1]}"
  flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
  environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
  with contextlib.ExitStack() as stack:
    started = []
    for index in range(count):
      place = coordinator, f"--process_id={index}", f"--process_count={count}"
      process = subprocess.Popen(
        [sys.executable, *arguments, *place],
        cwd=_REPOSITORY,
        env=environment | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      started.append(stack.enter_context(process))
      stack.callback(process.kill)
    done = []
    for process in started:
      out, err = process.communicate(timeout=_SECONDS)
      done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done
