"""Results in order, and workers that end with their parent."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rkd_jax.machine.workers import in_order


def _double(number):
  if number == 3:
    raise ValueError("three")
  time.sleep(0.01 * (number % 2))
  return 2 * number


def test_results_come_in_the_order_of_the_tasks_and_few_are_taken_ahead():
  taken = []

  def tasks():
    for number in (9, 4, 7, 0, 1, 6):
      taken.append(number)
      yield (number,)

  with ThreadPoolExecutor(2) as executor:
    results = in_order(executor, _double, tasks(), ahead=3)
    assert next(results) == 18 and len(taken) == 3
    assert list(results) == [8, 14, 0, 2, 12]


def _tasks_that_end_in_an_error(numbers):
  yield from ((number,) for number in numbers)
  raise ValueError("no more")


@pytest.mark.parametrize(
  "numbers, message, before",
  [([1, 3, 5], "three", [2]), ([1, 5], "no more", [2, 10]), ([3], "three", [])],
)
def test_the_first_error_in_order_is_raised(numbers, message, before):
  got = []
  with ThreadPoolExecutor(2) as executor, pytest.raises(ValueError, match=message):
    for result in in_order(executor, _double, _tasks_that_end_in_an_error(numbers), ahead=9):
      got.append(result)
  assert got == before


# Programs that a script puts into the background are started without Ctrl-C.
_PARENT = """
import os, signal, time
from rkd_jax.machine.workers import process_pool
if __name__ == "__main__":
  signal.signal(signal.SIGINT, signal.default_int_handler)
  with process_pool(1) as pool:
    worker = pool.submit(os.getpid).result()
    for _ in range(50):
      pool.submit(time.sleep, 0.2)
    print(worker, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_of_a_run_that_is_ended_end(tmp_path, number):
  script = tmp_path / "parent.py"
  script.write_text(_PARENT)
  environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
  parent = subprocess.Popen(
    [sys.executable, script],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
    start_new_session=True,
  )
  worker = int(parent.stdout.readline())
  os.kill(worker, 0)  # raises unless it is there
  if number == signal.SIGINT:  # as a terminal sends it
    os.killpg(parent.pid, number)
  else:
    os.kill(parent.pid, number)
  errors = parent.communicate(timeout=20)[1]
  deadline = time.monotonic() + 20
  while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
  status = Path(f"/proc/{worker}/stat")
  # In a container without an init process the dead worker remains as a zombie.
  assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
  assert errors.count("Traceback") == (number == signal.SIGINT)
