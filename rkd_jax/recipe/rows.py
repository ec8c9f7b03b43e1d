"""Rows of experiments and their tables, as data.

A row that trains names a config and the row whose run it starts from:

  Row("rkd_no_irm", "RKD without IRM", "demo", "rkd", parent="base", needs=TEACHERS,
      settings={"loss.irm.weight": 0.0}, group="losses")

and one that evaluates its parent's checkpoint again, under other settings, has `trains=False`:

  Row("rkd_tune", "RKD on the tuning split", parent="rkd", trains=False,
      settings={"data.eval.split": "tune"}, group="losses")

A row of a group is made where it or its group is named, and stands in the table of the group.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rkd_jax.pictures.components import Columns


@dataclasses.dataclass(frozen=True)
class Row:
  """An experiment: a config that is trained and evaluated, or a run that is evaluated again.

  Attributes:
    name: of the row, and of the folder of its runs.
    title: in the table.
    config: name of a config, as of --config; a row that does not train has its parent's.
    argument: of the config, before those that say root and seed.
    parent: the row whose run (of the same seed) it starts from, or which it evaluates.
    needs: names of `needs.known.NEEDS`, beside those of the parent.
    settings: by dotted name, changed after the config is made; texts may have {root}, {seed} and
      {weights}.
    trains: False evaluates the parent's newest checkpoint.
    of_annotations: what does not train measures the CLIP of its fusion on the annotated boxes in
      place of the detector (`evaluation.ceilings`).
    control: a control experiment, which is set apart and never the best.
    group: of `Recipe.groups`; '' is the table that is made where nothing is named.
    paper: the published numbers, one for each column of the recipe's table.
    after: rows that come first, too, since what it needs is made from their runs.
  """

  name: str
  title: str
  config: str = ""
  argument: str = ""
  parent: str = ""
  needs: tuple[str, ...] = ()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trains: bool = True
  of_annotations: bool = False
  control: bool = False
  group: str = ""
  paper: tuple[float, ...] | None = None
  after: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Group:
  """A table of its own: its title, and the rows of others that stand beside its own."""

  title: str
  beside: tuple[str, ...] = ()


# From root and seed to what a config's argument says of them.
Places = Callable[[str, int], str]
# From root, name of a row and seed to the folder of its run.
Folder = Callable[[str, str, int], str]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A table of rows, in the order in which they are shown and trained.

  Attributes:
    name: of the recipe.
    title: of its table.
    columns: metrics of the table.
    rows: parents before those that start from them.
    folder: where the runs of a row are.
    places: the end of every config's argument.
    only_first: names of arguments (`--arguments`) that only rows without a parent take.
    groups: tables beside that of the rows without a group, by the name that rows know them by.
  """

  name: str
  title: str
  columns: Columns
  rows: tuple[Row, ...]
  folder: Folder
  places: Places
  only_first: tuple[str, ...] = ()
  groups: Mapping[str, Group] = dataclasses.field(default_factory=dict)

  @property
  def root(self) -> str:
    """Where everything is, unless --root says otherwise."""
    return f"runs/{self.name}"

  def row(self, name: str) -> Row:
    """The row of a name; ValueError names the nearest."""
    return named({row.name: row for row in self.rows}, name, f"recipe {self.name}", "row")

  def chosen(self, names: Iterable[str] = (), with_parents: bool = True) -> list[Row]:
    """The rows of some names, by default those without a group, in the order of the recipe.

    A name is that of a row or of a group, or 'all'.  `with_parents` takes those in that they start
    from or need, and theirs.  Raises ValueError: unknown.
    """
    sets = {row.name: [row] for row in self.rows}
    sets |= {name: [r for r in self.rows if r.group == name] for name in ("", *self.groups)}
    sets["all"] = [*self.rows]
    wanted = [
      row
      for name in list(names) or [""]
      for row in named(sets, name, f"recipe {self.name}", "row or group")
    ]
    found: set[str] = set()
    while wanted:
      row = wanted.pop()
      found.add(row.name)
      if with_parents:
        wanted += [self.row(name) for name in (row.parent, *row.after) if name]
    return [row for row in self.rows if row.name in found]

  def tables(self, names: Iterable[str]) -> dict[str, list[str]]:
    """Which of some rows stand in which table, by its title, in the recipe's order.

    A group that has none of them has no table.
    """
    names, found = list(names), {}
    for key, group in {"": Group("Components"), **self.groups}.items():
      if any(self.row(name).group == key for name in names):
        rows = (r for r in self.rows if r.group == key or r.name in group.beside)
        found[group.title] = [row.name for row in rows if row.name in names]
    return found


def named(known: Mapping[str, Any], name: str, where: str, kind: str) -> Any:
  """What has a name; ValueError names the nearest of those that are known."""
  if name not in known:
    names = [*filter(None, known)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    raise ValueError(
      f"{where} has no {kind} {name!r}; the nearest is {near[0]!r}. All: {', '.join(names)}."
    )
  return known[name]
