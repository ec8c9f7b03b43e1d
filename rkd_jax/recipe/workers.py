"""Other processes of this machine that work on the same order, for CPUs that one leaves idle.

The loops, sorts and small arrays in a training step of a small network keep one core busy: two rows
side by side are done sooner than one after the other.  Who does what is decided by the locks of the
runs, as between hosts.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import jax

from rkd_jax.files import storage
from rkd_jax.recipe.order import Order

# After all is made, a worker has nothing left to do but to see that.
_LEAVE_S = 60


def check_workers(order: Order, workers: int) -> None:
  """Raises ValueError: several on an accelerator, which a process takes whole, or a remote root."""
  if workers > 1 and jax.default_backend() != "cpu":
    raise ValueError(
      f"--workers={workers}: a process takes the whole {jax.default_backend()}; leave it out, or "
      "start one process for each device yourself (docs/recipes.md)."
    )
  if workers > 1 and storage.is_remote(order.root):
    raise ValueError(f"--workers={workers} needs a --root on this machine, not {order.root}.")


def command_of(order: Order) -> list[str]:
  """The command line that asks for an order, once its parents are among its rows."""
  rows = ",".join(row.name for row in order.rows)
  flags = {
    "root": order.root,
    "rows": rows,
    "seeds": ",".join(map(str, order.seeds)),
    "arguments": order.arguments,
    "weights": order.weights,
    "clip": order.clip,
    "report_images": 0,
  }
  own = [f"--{name}={value}" for name, value in flags.items() if value != ""]
  own += [f"--config.{key}={value!r}" for key, value in order.settings.items()]
  return ["-m", "rkd_jax.recipe", order.recipe.name, *own, *(["--only"] if order.only else [])]


@contextlib.contextmanager
def helped(order: Order, workers: int) -> Iterator[None]:
  """A block beside which `workers - 1` other processes work on the order.

  What they say is in ROOT/worker-N.log.  One that fails leaves its row to this process, which then
  says why.  They end with the block, like by SIGTERM if it ends early: trainings save their state.
  """
  processes: list[subprocess.Popen] = []
  storage.path(order.root).mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    try:
      for number in range(1, workers):
        file = storage.path(order.root) / f"worker-{number}.log"
        log = stack.enter_context(open(file, "w"))
        command = [sys.executable, *command_of(order)]
        processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        print(f"Another process works beside this one: {file}", flush=True)
      yield
      for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(_LEAVE_S)
    finally:
      for process in processes:
        process.terminate()
      for process in processes:
        process.wait()
