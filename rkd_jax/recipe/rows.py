"""Recipes: tables of experiments as data.  A new row is one entry here.

A row that trains names a config and the row whose run it starts from:

  Row("rkd_no_irm", "RKD without IRM", "demo", "rkd", parent="base", needs=TEACHERS,
      settings={"loss.irm.weight": 0.0}, optional=True)

and one that evaluates its parent's checkpoint again, under other settings, has `trains=False`:

  Row("rkd_tune", "RKD on the tuning split", parent="rkd", trains=False,
      settings={"data.eval.split": "tune"}, optional=True)

Optional rows are left out unless they are named.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rkd_jax.configs import demo as demo_config
from rkd_jax.pictures.components import AP50, MASK_AP, Columns


@dataclasses.dataclass(frozen=True)
class Row:
  """An experiment: a config that is trained and evaluated, or a run that is evaluated again.

  Attributes:
    name: of the row, and of the folder of its runs.
    title: in the table.
    config: name of a config, as of --config; a row that does not train has its parent's.
    argument: of the config, before those that say root and seed.
    parent: the row whose run (of the same seed) it starts from, or which it evaluates.
    needs: names of `needs.PREREQUISITES`, beside those of the parent.
    settings: by dotted name, changed after the config is made; ROOT stands for the root.
    trains: False evaluates the parent's newest checkpoint.
    control: a control experiment, which is set apart and never the best.
    optional: left out unless it is named.
    paper: the published numbers, one for each column of the recipe's table.
  """

  name: str
  title: str
  config: str = ""
  argument: str = ""
  parent: str = ""
  needs: tuple[str, ...] = ()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trains: bool = True
  control: bool = False
  optional: bool = False
  paper: tuple[float, ...] | None = None


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
  """

  name: str
  title: str
  columns: Columns
  rows: tuple[Row, ...]
  folder: Folder
  places: Places
  only_first: tuple[str, ...] = ()

  @property
  def root(self) -> str:
    """Where everything is, unless --root says otherwise."""
    return f"runs/{self.name}"

  def row(self, name: str) -> Row:
    """The row of a name; ValueError names the nearest."""
    return _named({row.name: row for row in self.rows}, name, f"recipe {self.name}", "row")

  def chosen(self, names: Iterable[str] = (), with_parents: bool = True) -> list[Row]:
    """The rows of some names, by default all that are not optional, in the order of the table.

    `with_parents` takes those in that they start from, and theirs.  Raises ValueError: unknown.
    """
    names = list(names)
    wanted = [self.row(name) for name in names] or [row for row in self.rows if not row.optional]
    found = {row.name for row in wanted}
    for row in wanted if with_parents else ():
      while row.parent:
        row = self.row(row.parent)
        found.add(row.name)
    return [row for row in self.rows if row.name in found]


def find(name: str) -> Recipe:
  """The recipe of a name; ValueError names the nearest."""
  return _named(RECIPES, name, "rkd-jax", "recipe")


def _named(known: Mapping[str, Any], name: str, where: str, kind: str) -> Any:
  if name not in known:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ValueError(
      f"{where} has no {kind} {name!r}; the nearest is {near[0]!r}. All: {', '.join(known)}."
    )
  return known[name]


def _beside_seed_0(root: str, row: str, seed: int) -> str:
  """ROOT/ROW, as the commands of the configs have it, and ROOT/seedN/ROW of other seeds."""
  return f"{root}/{row}" if seed == 0 else f"{root}/seed{seed}/{row}"


def _own_places(root: str, seed: int) -> str:
  """The config coco_json looks at the run that a row starts from, below its own root."""
  if seed == 0:
    return f"root={root}"
  here = f"data_dir={root}/data,class_embeddings={root}/class_embeddings.npz"
  return f"root={root}/seed{seed},seed={seed},{here},teachers={root}/teachers"


_TRAINED = ("records", "class_embeddings")
_FROM_IMAGENET = (*_TRAINED, "imagenet")
_RKD_ILS, _TRANSFER = "RKD + ILS", "RKD + ILS + weight transfer"
TEACHERS = ("teachers",)
_BOTH_TEACHERS = ("teachers", "imagenet_records", "imagenet_teachers")
_IMAGE_TEACHERS = ("imagenet_records", "imagenet_teachers")
_STRICT = ("strict_teachers",)
# Other records and their classes in place of a run's own, images as large as they are.
_ELSEWHERE = {
  "data.name": "shapes_ovd/elsewhere",
  "class_embeddings": "ROOT/elsewhere.npz",
  "data.eval.canvas": (160, 160),
  "data.eval.short_sides": (120,),
  "data.eval.max_side": 160,
}

COCO = Recipe(
  "coco",
  "OV-COCO",
  AP50,
  (
    Row("base", "base", "coco/base", needs=_FROM_IMAGENET, paper=(1.7, 53.2, 39.6)),
    Row("rkd", "RKD", "coco/rkd", "", "base", TEACHERS, paper=(21.6, 54.4, 45.8)),
    Row("ils", "ILS", "coco/ils", "", "base", TEACHERS, paper=(34.2, 52.0, 47.4)),
    Row("rkd_ils", _RKD_ILS, "coco/rkd_ils", "", "base", TEACHERS, paper=(35.3, 52.9, 48.3)),
    Row(
      "rkd_ils_weight_transfer",
      _TRANSFER,
      "coco/rkd_ils_weight_transfer",
      parent="rkd",
      needs=TEACHERS,
      paper=(40.3, 54.1, 50.5),
    ),
    Row(
      "rkd_ils_weight_transfer_8x",
      f"{_TRANSFER}, 8x",
      "coco/rkd_ils_weight_transfer_8x",
      parent="rkd",
      needs=TEACHERS,
      paper=(40.5, 56.7, 52.5),
    ),
    Row(
      "rkd_no_irm",
      "RKD without IRM",
      "coco/rkd",
      parent="base",
      needs=TEACHERS,
      settings={"loss.irm.weight": 0.0},
      optional=True,
      paper=(16.7, 55.1, 45.0),
    ),
  ),
  _beside_seed_0,
  lambda root, seed: f"root={root},seed={seed}",
)

LVIS = Recipe(
  "lvis",
  "OV-LVIS",
  MASK_AP,
  (
    Row("base", "base", "lvis/base", needs=_FROM_IMAGENET, paper=(12.2, 19.4, 26.4, 20.9)),
    Row("rkd", "RKD", "lvis/rkd", "", "base", TEACHERS, paper=(15.2, 20.2, 27.3, 22.1)),
    Row("ils", "ILS", "lvis/ils", "", "base", _IMAGE_TEACHERS, paper=(17.0, 21.2, 26.1, 22.4)),
    Row(
      "rkd_ils",
      _RKD_ILS,
      "lvis/rkd_ils",
      parent="base",
      needs=_BOTH_TEACHERS,
      paper=(17.3, 20.9, 25.5, 22.1),
    ),
    Row(
      "rkd_ils_weight_transfer",
      _TRANSFER,
      "lvis/rkd_ils_weight_transfer",
      parent="rkd",
      needs=_BOTH_TEACHERS,
      paper=(17.1, 21.4, 26.7, 22.8),
    ),
    Row(
      "rkd_ils_weight_transfer_8x",
      f"{_TRANSFER}, 8x",
      "lvis/rkd_ils_weight_transfer_8x",
      parent="rkd",
      needs=_BOTH_TEACHERS,
      paper=(21.1, 25.0, 29.1, 25.9),
    ),
  ),
  _beside_seed_0,
  lambda root, seed: f"root={root},seed={seed}",
)

DEMO = Recipe(
  "demo",
  "shapes_ovd",
  AP50,
  (
    Row("base", "base", "demo", "base", needs=(*_TRAINED, "clip")),
    Row("rkd", "RKD", "demo", "rkd", "base", TEACHERS),
    Row("ils", "ILS", "demo", "ils", "base", TEACHERS),
    Row("rkd_ils", _RKD_ILS, "demo", "rkd_ils", "rkd", TEACHERS),
    Row("rkd_ils_weight_transfer", _TRANSFER, "demo", "rkd_ils_weight_transfer", "rkd", TEACHERS),
    Row(
      "rkd_longer",
      "RKD, as many steps as the rows with ILS",
      "demo",
      "rkd_longer",
      "rkd",
      TEACHERS,
      control=True,
    ),
    Row(
      "fused",
      f"{_TRANSFER}, fused with CLIP on crops",
      parent="rkd_ils_weight_transfer",
      needs=("clip",),
      settings={"model.test.fusion.kind": "crops"},
      trains=False,
    ),
    *(
      Row(
        f"{row}_fused",
        f"{title}, fused with CLIP on crops",
        parent=row,
        needs=("clip",),
        settings={"model.test.fusion.kind": "crops"},
        trains=False,
        optional=True,
      )
      for row, title in (("base", "base"), ("rkd", "RKD"))
    ),
    Row(
      "fused_projection",
      f"{_TRANSFER}, fused with its distilled projection",
      parent="rkd_ils_weight_transfer",
      settings={"model.test.fusion.kind": "projection"},
      trains=False,
      optional=True,
    ),
    Row(
      "retrieved",
      f"{_TRANSFER}, retrieved regions in image batches",
      "demo",
      "retrieved",
      "rkd",
      (*TEACHERS, "retrieved"),
      optional=True,
    ),
    Row(
      "retrieved_boxes",
      f"{_TRANSFER}, retrieved regions in box batches",
      "demo",
      "retrieved_boxes",
      "rkd",
      (*TEACHERS, "retrieved"),
      optional=True,
    ),
    Row(
      "recommended",
      f"{_TRANSFER}, retrieved regions in box batches, fused with CLIP on crops",
      parent="retrieved_boxes",
      needs=("clip",),
      settings={"model.test.fusion.kind": "crops"},
      trains=False,
      optional=True,
    ),
    *(
      Row(name, title, "demo", name, "base", TEACHERS, optional=True)
      for name, title in (
        ("rkd_contrastive", "InfoNCE and relations in place of RKD's losses"),
        ("rkd_both", "RKD beside half of InfoNCE and relations"),
        ("rkd_teacher_boxes", "RKD, teacher boxes as foreground of the RPN"),
      )
    ),
    *(
      Row(name, title, "demo", name, parent, needs, optional=True)
      for name, title, parent, needs in (
        ("strict_base", "base, CLIP of the strict setting", "", ("records", "strict_embeddings")),
        ("strict_rkd", "RKD, CLIP of the strict setting", "strict_base", _STRICT),
        ("strict_control", f"{_TRANSFER}, CLIP of the strict setting", "strict_rkd", _STRICT),
        (
          "strict",
          f"{_TRANSFER}, strict: image batches of 400 concepts",
          "strict_rkd",
          (*_STRICT, "strict_concepts", "strict_concept_teachers"),
        ),
      )
    ),
    *(
      Row(
        f"{name}_elsewhere",
        f"{title}, on another data set",
        parent=parent,
        needs=("elsewhere_records", "elsewhere_embeddings"),
        settings={**settings, **_ELSEWHERE},
        trains=False,
        optional=True,
      )
      for name, title, parent, settings in (
        ("base", "base", "base", {}),
        ("rkd", "RKD", "rkd", {}),
        ("rkd_ils_weight_transfer", _TRANSFER, "rkd_ils_weight_transfer", {}),
        (
          "fused",
          f"{_TRANSFER}, fused with CLIP on crops",
          "rkd_ils_weight_transfer",
          {"model.test.fusion.kind": "crops"},
        ),
      )
    ),
    Row(
      "rkd_no_irm",
      "RKD without IRM",
      "demo",
      "rkd",
      "base",
      TEACHERS,
      settings={"loss.irm.weight": 0.0},
      optional=True,
    ),
  ),
  demo_config.workdir,
  lambda root, seed: f"seed={seed},root={root}",
)

OWN = Recipe(
  "coco_json",
  "Own photographs",
  AP50,
  (
    Row("base", "base", "coco_json", "base", needs=_TRAINED),
    Row("rkd", "RKD", "coco_json", "rkd", "base", TEACHERS),
    Row("ils", "ILS", "coco_json", "ils", "base", TEACHERS),
    Row("rkd_ils", _RKD_ILS, "coco_json", "rkd_ils", "base", TEACHERS),
    Row(
      "rkd_ils_weight_transfer", _TRANSFER, "coco_json", "rkd_ils_weight_transfer", "rkd", TEACHERS
    ),
  ),
  _beside_seed_0,
  _own_places,
  only_first=("init",),
)

RECIPES = {recipe.name: recipe for recipe in (COCO, LVIS, DEMO, OWN)}
