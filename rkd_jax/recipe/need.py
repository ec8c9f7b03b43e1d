"""What a prerequisite of rows is: whether it is there, and the command that makes it."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence

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
  looks: bool = False
  problem: Callable[[Order], str] = lambda order: ""


def shown(command: Sequence[str]) -> str:
  """A command as it is typed."""
  return shlex.join(command)


def flags_of(command: Sequence[str]) -> list[str]:
  """Those of `rkd-jax VERB FLAGS` or `python -m MODULE FLAGS`."""
  return [*command[2 if command[0] == "rkd-jax" else 3 :]]


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


def python(module: str, *flags: str) -> Callable[[Order], list[str]]:
  """`python -m rkd_jax.MODULE` with flags in which ROOT stands for the root."""
  words = ["python", "-m", f"rkd_jax.{module}", *flags]
  return lambda order: [word.replace("ROOT", order.root) for word in words]


def names_of(order: Order, data_set: str) -> str:
  """The file with the class names of records, one on each line in the order of their numbers."""
  found = storage.matching(f"{order.root}/data/{data_set}", "[0-9]*.*.*/objects-label.labels.txt")
  place = f"{order.root}/data/{data_set}/1.0.0/objects-label.labels.txt"
  return f"--names=@{found[-1] if found else place}"
