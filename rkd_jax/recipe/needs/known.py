"""The needs of all recipes, and the commands of the documentation that make them.

A prerequisite is made here, by the entry that its command has, where everything it is made from is
there; of others it is said, before any step, which command makes them.
"""

import dataclasses
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence

from rkd_jax.recipe.needs.demo import DEMO
from rkd_jax.recipe.needs.need import Need
from rkd_jax.recipe.needs.own import OWN
from rkd_jax.recipe.needs.paper import COCO, LVIS
from rkd_jax.recipe.order import Order
from rkd_jax.recipe.rows import Row
from rkd_jax.weights import published

NEEDS: dict[str, Mapping[str, Need]] = {"coco": COCO, "lvis": LVIS, "demo": DEMO, "coco_json": OWN}


def needed(order: Order, rows: Iterable[Row]) -> dict[str, Need]:
  """The prerequisites of some rows and of these, by name, in the order in which they are made."""
  known, found = NEEDS[order.recipe.name], {}

  def add(name: str) -> None:
    for before in known[name].after:
      add(before)
    found.setdefault(name, known[name])

  for row in rows:
    for name in row.needs:
      add(name)
  return found


def each(order: Order, need: Need) -> list[Order]:
  """The orders that a prerequisite is made for: one for each seed, or that which is given."""
  seeds = [(seed,) for seed in order.seeds] if need.each_seed else [order.seeds]
  return [dataclasses.replace(order, seeds=own) for own in seeds]


def missing(order: Order, needs: Mapping[str, Need]) -> list[str]:
  """A sentence for each prerequisite that is not there and cannot be made from what is."""
  every = [(need, own) for need in needs.values() for own in each(order, need)]
  return [sentence for need, own in every if (sentence := _lacking(own, need))]


def _lacking(order: Order, need: Need) -> str:
  if need.is_there(order):
    return ""
  if problem := need.problem(order):
    return problem
  absent = [path for path in need.inputs(order) if not os.path.exists(path)]
  if need.make is not None and not absent:
    return ""
  sentence = f"{need.what} of {order.root}: not there. Make it with: {shown(need.command(order))}"
  if absent:
    sentence += f", which needs {', '.join(map(_with_download, absent))}"
  return f"{sentence}."


def shown(command: Sequence[str]) -> str:
  """A command as it is typed."""
  return shlex.join(command)


def flags_of(command: Sequence[str]) -> list[str]:
  """Those of `rkd-jax VERB FLAGS` or `python -m MODULE FLAGS`."""
  return [*command[2 if command[0] == "rkd-jax" else 3 :]]


def _with_download(path: str) -> str:
  """A file of weights, and the command that fetches it."""
  try:
    name = published.find(os.path.basename(path)).name
  except ValueError:
    return path
  return f"{path} (rkd-jax download {name})"
