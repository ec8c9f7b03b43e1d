"""Making what was asked for: prerequisites, then rows, each when what it starts from is there.

Nothing is remembered but what is on the disk.  Several processes, also on several hosts, may work
on one root: each takes what is free, by the lock of the run (`runs.lock`), and waits for what
others have.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from rkd_jax.files import storage
from rkd_jax.pictures.components import Columns
from rkd_jax.recipe.needs.known import each, flags_of, missing, needed, shown
from rkd_jax.recipe.needs.need import Need
from rkd_jax.recipe.order import Order, check, evaluation
from rkd_jax.recipe.rows import Row
from rkd_jax.recipe.training import evaluate_again, train_and_evaluate
from rkd_jax.recipe.workers import check_workers, helped
from rkd_jax.runs.lock import WorkdirInUseError, locked

# Between two looks at what other processes do: on other hosts, and on this one.
PAUSE_S, PAUSE_BESIDE_S = 30.0, 1.0


class Clock:
  """Says what is being done and remembers how long it took."""

  def __init__(self):
    self.begin = time.monotonic()
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str, announced: bool = False) -> Iterator[None]:
    start = time.monotonic()
    if not announced:
      print(f"\n== {name} ({start - self.begin:.0f} s so far)", flush=True)
    yield
    self.seconds[name] = time.monotonic() - start


@dataclasses.dataclass(frozen=True)
class Job:
  """Something to be made.

  Attributes:
    name: unlike all others.
    title: what is said when it begins.
    after: names of jobs that come first.
    is_done: whether it is there; asked often.
    do: makes it; WorkdirInUseError if another process does.
  """

  name: str
  title: str
  after: tuple[str, ...]
  is_done: Callable[[], bool]
  do: Callable[[], None]


def work_off(
  jobs: Sequence[Job],
  clock: Clock,
  finished: Callable[[Job], None] = lambda job: None,
  pause: float = PAUSE_S,
) -> None:
  """Does all jobs that are not done, the first that is free each time.

  What another process has is waited for, with a line that says who has it; when that process ends
  without a result, it is done here.  `finished` is told of each job that was done here.

  Raises ValueError: two jobs have one name, or some wait for each other or for themselves.
  """
  left, told, announced = {job.name: job for job in jobs}, set(), set()
  if len(left) != len(jobs):
    raise ValueError(f"two jobs have one name: {', '.join(sorted(job.name for job in jobs))}.")
  while left:
    elsewhere, before = {}, len(left)
    for job in list(left.values()):
      if job.is_done():
        del left[job.name]
      elif not any(name in left for name in job.after):
        try:
          with clock(job.title, job.name in announced):
            job.do()
        except WorkdirInUseError as error:
          announced.add(job.name)
          elsewhere[job.title] = str(error).partition(". Wait")[0]
          continue
        del left[job.name]
        finished(job)
        break
    if len(left) == before:
      if not elsewhere:
        raise ValueError(f"none of these can be begun before another: {', '.join(left)}.")
      for title in elsewhere.keys() - told:
        print(f"Waiting for {title}: {elsewhere[title]}.", flush=True)
      told = elsewhere.keys()
      time.sleep(pause)


def jobs_of(order: Order) -> list[Job]:
  """Prerequisites of the rows that are not finished, and all rows, in the order they are made."""
  open_rows = [row for row, seed in order.runs if evaluation(order, row, seed) is None]
  made: set[str] = set()
  jobs = [
    _need_job(own, name, need, made)
    for name, need in needed(order, open_rows).items()
    for own in each(order, need)
  ]
  return jobs + [_row_job(order, row, seed) for row, seed in order.runs]


def _need_job(order: Order, name: str, need: Need, made: set[str]) -> Job:
  """`made` has the names of what was made by this process, from which others are made again."""

  def is_done() -> bool:
    return not need.looks and not made.intersection(need.after) and need.is_there(order)

  def do() -> None:
    with locked(storage.path(order.root) / "locks" / name):
      if is_done():
        return
      new, command = not need.is_there(order), need.command(order)
      print(f"$ {shown(command)}", flush=True)
      need.make(flags_of(command))
      if new:
        made.add(name)

  row = (_name(order.recipe.row(need.after_row), order.seeds[0]),) if need.after_row else ()
  return Job(_need_name(order, name, need), need.what, (*need.after, *row), is_done, do)


def _need_name(order: Order, name: str, need: Need) -> str:
  # Unlike the name of a row's job, which may be called like what it needs.
  return f"{name} of seed {order.seeds[0]}" if need.each_seed else name


def _row_job(order: Order, row: Row, seed: int) -> Job:
  parent, folder = order.parent(row), order.folder(row, seed)

  def do() -> None:
    config = order.config(row, seed)
    if row.trains:
      results = train_and_evaluate(config, folder)
    else:
      results = evaluate_again(config, order.folder(parent, seed), folder, row.of_annotations)
    print(figures(results, order.recipe.columns), flush=True)

  alone = dataclasses.replace(order, seeds=(seed,))
  after = [_need_name(alone, name, need) for name, need in needed(order, [row]).items()]
  after += [_name(parent, seed)] if parent else []
  title = f"{row.title}, seed {seed}"
  return Job(
    _name(row, seed), title, tuple(after), lambda: evaluation(order, row, seed) is not None, do
  )


def _name(row: Row, seed: int) -> str:
  return f"{row.name}/{seed}"


def figures(results: Mapping[str, Any], columns: Columns) -> dict[str, float | None]:
  """The metrics of a table, as they are said when a row is finished."""
  values = {metric: results.get(metric) for metric in columns.metrics}
  return {name: None if value is None else round(value, 1) for name, value in values.items()}


def prepare(order: Order, workers: int = 1) -> list[Job]:
  """The jobs of an order, once it is certain that so many processes can do them.

  Raises ValueError: see `order.check` and `workers.check_workers`; or prerequisites cannot be made,
  with a sentence for each.
  """
  check_workers(order, workers)
  check(order)
  jobs = jobs_of(order)
  open_rows = [row for row, seed in order.runs if evaluation(order, row, seed) is None]
  if sentences := missing(order, needed(order, open_rows)):
    raise ValueError("\n".join(["Nothing was done yet.", *sentences]))
  return jobs


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
  """A block that SIGTERM leaves with code 143, also where no loop of training receives it.

  A program that is being compiled is waited for; a second SIGTERM ends the process at once.
  """

  def leave(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)

  previous = signal.signal(signal.SIGTERM, leave)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)


def run(
  order: Order,
  clock: Clock,
  finished: Callable[[Job], None] = lambda job: None,
  workers: int = 1,
) -> dict[str, list[dict[str, Any]]]:
  """Makes all of an order with so many processes; the results of each row, one for each seed.

  Raises ValueError: see `prepare`; nothing was trained then.
  """
  jobs = prepare(order, workers)
  jax.config.update("jax_compilation_cache_dir", f"{order.root}/jax_cache")
  with exit_on_sigterm(), helped(order, workers):
    work_off(jobs, clock, finished, PAUSE_S if workers == 1 else PAUSE_BESIDE_S)
  return {
    row.name: [evaluation(order, row, seed) or {} for seed in order.seeds] for row in order.rows
  }
