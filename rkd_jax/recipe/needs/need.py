"""What rows need before they can be trained, and how to see whether it is there."""

import dataclasses
from collections.abc import Callable

from rkd_jax import retrieve
from rkd_jax.files import storage
from rkd_jax.recipe.order import Order
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.sources import open_source
from rkd_jax.vocabulary import class_embeddings


@dataclasses.dataclass(frozen=True)
class Need:
  """A prerequisite of rows.

  Attributes:
    what: it is, for people.
    is_there: whether it is made; may look at files alone.
    command: what makes it, as the documentation has it, in words.
    make: takes the flags of the command; None where a person has to give it something.
    inputs: files or folders that are needed to make it, beside other prerequisites.
    after: other prerequisites that it is made from.
    after_row: the row whose run, of the first seed, it is made from.
    each_seed: there is one for each seed; the functions are given an order of that seed alone.
    looks: the command is given even if all is there: it sees at once whether that is the right
      one, and does nothing more.
    problem: a sentence on why there can be none; '' if there can.
  """

  what: str
  is_there: Callable[[Order], bool]
  command: Callable[[Order], list[str]]
  make: Callable[[list[str]], object] | None = None
  inputs: Callable[[Order], list[str]] = lambda order: []
  after: tuple[str, ...] = ()
  after_row: str = ""
  each_seed: bool = False
  looks: bool = False
  problem: Callable[[Order], str] = lambda order: ""


def has_records(data_set: str, *splits: str) -> Callable[[Order], bool]:
  def is_there(order: Order) -> bool:
    try:
      for split in splits:
        open_source(f"{order.root}/data", data_set, split)
    except ValueError:
      return False
    return True

  return is_there


def has_results(folder: str, *splits: str) -> Callable[[Order], bool]:
  def is_there(order: Order) -> bool:
    try:
      for split in splits:
        TeacherReader(f"{order.root}/{folder}", split)
    except ValueError:
      return False
    return True

  return is_there


def has_rows(order: Order) -> bool:
  return storage.path(f"{order.root}/{class_embeddings.FILE}").exists()


def python_module(module: str, *flags: str) -> Callable[[Order], list[str]]:
  """`python -m rkd_jax.MODULE` with flags in which ROOT stands for the root."""
  words = ["python", "-m", f"rkd_jax.{module}", *flags]
  return lambda order: [word.replace("ROOT", order.root) for word in words]


def names_flag(order: Order, data_set: str) -> str:
  """The file with the class names of records, one on each line in the order of their numbers."""
  found = storage.matching(f"{order.root}/data/{data_set}", "[0-9]*.*.*/objects-label.labels.txt")
  place = f"{order.root}/data/{data_set}/1.0.0/objects-label.labels.txt"
  return f"--names=@{found[-1] if found else place}"


def is_retrieved(order: Order, folder: str) -> bool:
  """Whether `rkd-jax retrieve` has come to its end there."""
  return storage.path(f"{order.root}/{folder}/{retrieve.SUMMARY}").exists()
