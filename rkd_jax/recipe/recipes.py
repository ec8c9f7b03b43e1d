"""All recipes: tables of the paper, of the demo and of own photographs; a new row is one entry."""

from rkd_jax.pictures.components import AP50, MASK_AP
from rkd_jax.recipe.demo_rows import DEMO
from rkd_jax.recipe.fused_rows import ceilings, fused
from rkd_jax.recipe.rows import Group, Recipe, Row, named


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
_TEACHERS = ("teachers",)
_BOTH_TEACHERS = ("teachers", "imagenet_records", "imagenet_teachers")
_IMAGE_TEACHERS = ("imagenet_records", "imagenet_teachers")

_BEYOND = Group("Beyond the paper", ("base", "rkd", "rkd_ils_weight_transfer"))


def _beyond(data_set: str, teachers: tuple[str, ...]) -> tuple[Row, ...]:
  """Rows of docs/beyond.md, the fused ones and the ceilings with CLIP ViT-B/32."""
  clip = {"model.test.fusion.clip": "{weights}/ViT-B-32.pt"}
  return (
    *(
      fused(row, f"{row}_fused", f"{title}, fused with CLIP on crops", settings=clip)
      for row, title in (("base", "base"), ("rkd", "RKD"), ("rkd_ils_weight_transfer", _TRANSFER))
    ),
    *ceilings("rkd_ils_weight_transfer", _TRANSFER, clip),
    Row(
      "recommended",
      f"{_TRANSFER}, retrieved regions in box batches, fused with CLIP on crops",
      f"{data_set}/recommended",
      parent="rkd",
      needs=(*teachers, "retrieved", "clip"),
      settings=clip,
      group="beyond",
    ),
  )


COCO = Recipe(
  "coco",
  "OV-COCO",
  AP50,
  (
    Row("base", "base", "coco/base", needs=_FROM_IMAGENET, paper=(1.7, 53.2, 39.6)),
    Row("rkd", "RKD", "coco/rkd", "", "base", _TEACHERS, paper=(21.6, 54.4, 45.8)),
    Row("ils", "ILS", "coco/ils", "", "base", _TEACHERS, paper=(34.2, 52.0, 47.4)),
    Row("rkd_ils", _RKD_ILS, "coco/rkd_ils", "", "base", _TEACHERS, paper=(35.3, 52.9, 48.3)),
    Row(
      "rkd_ils_weight_transfer",
      _TRANSFER,
      "coco/rkd_ils_weight_transfer",
      parent="rkd",
      needs=_TEACHERS,
      paper=(40.3, 54.1, 50.5),
    ),
    Row(
      "rkd_ils_weight_transfer_8x",
      f"{_TRANSFER}, 8x",
      "coco/rkd_ils_weight_transfer_8x",
      parent="rkd",
      needs=_TEACHERS,
      paper=(40.5, 56.7, 52.5),
    ),
    Row(
      "rkd_no_irm",
      "RKD without IRM",
      "coco/rkd",
      parent="base",
      needs=_TEACHERS,
      settings={"loss.irm.weight": 0.0},
      group="losses",
      paper=(16.7, 55.1, 45.0),
    ),
    *_beyond("coco", _TEACHERS),
  ),
  _beside_seed_0,
  lambda root, seed: f"root={root},seed={seed}",
  groups={"losses": Group("Distillation losses", ("base", "rkd")), "beyond": _BEYOND},
)

LVIS = Recipe(
  "lvis",
  "OV-LVIS",
  MASK_AP,
  (
    Row("base", "base", "lvis/base", needs=_FROM_IMAGENET, paper=(12.2, 19.4, 26.4, 20.9)),
    Row("rkd", "RKD", "lvis/rkd", "", "base", _TEACHERS, paper=(15.2, 20.2, 27.3, 22.1)),
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
    *_beyond("lvis", _BOTH_TEACHERS),
  ),
  _beside_seed_0,
  lambda root, seed: f"root={root},seed={seed}",
  groups={"beyond": _BEYOND},
)

OWN = Recipe(
  "coco_json",
  "Own photographs",
  AP50,
  (
    Row("base", "base", "coco_json", "base", needs=_TRAINED),
    Row("rkd", "RKD", "coco_json", "rkd", "base", _TEACHERS),
    Row("ils", "ILS", "coco_json", "ils", "base", _TEACHERS),
    Row("rkd_ils", _RKD_ILS, "coco_json", "rkd_ils", "base", _TEACHERS),
    Row(
      "rkd_ils_weight_transfer", _TRANSFER, "coco_json", "rkd_ils_weight_transfer", "rkd", _TEACHERS
    ),
  ),
  _beside_seed_0,
  _own_places,
  only_first=("init",),
)

RECIPES = {recipe.name: recipe for recipe in (COCO, LVIS, DEMO, OWN)}


def find(name: str) -> Recipe:
  """The recipe of a name; ValueError names the nearest."""
  return named(RECIPES, name, "rkd-jax", "recipe")
