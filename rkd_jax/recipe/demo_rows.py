"""The rows of the demo: the paper's components, its ablations, and what goes beyond it.

An ablation changes one thing of the row that its table shows beside it, and is trained from the
same run for as many steps.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rkd_jax.configs import demo as demo_config
from rkd_jax.pictures.components import AP50
from rkd_jax.recipe.fused_rows import ceilings, fused
from rkd_jax.recipe.rows import Group, Recipe, Row

_TRAINED, _TEACHERS = ("records", "class_embeddings"), ("teachers",)
_TRANSFER = "RKD + ILS + weight transfer"
_CROPS = {"model.test.fusion.kind": "crops"}

_COMPONENTS = (
  Row("base", "base", "demo", "base", needs=(*_TRAINED, "clip")),
  Row("rkd", "RKD", "demo", "rkd", "base", _TEACHERS),
  Row("ils", "ILS", "demo", "ils", "base", _TEACHERS),
  Row("rkd_ils", "RKD + ILS", "demo", "rkd_ils", "rkd", _TEACHERS),
  Row("rkd_ils_weight_transfer", _TRANSFER, "demo", "rkd_ils_weight_transfer", "rkd", _TEACHERS),
  Row(
    "rkd_longer",
    "RKD, as many steps as the rows with ILS",
    "demo",
    "rkd_longer",
    "rkd",
    _TEACHERS,
    control=True,
  ),
)


def _like_rkd(
  name: str,
  title: str,
  group: str,
  settings: Mapping[str, Any] = MappingProxyType({}),
  stage: str = "rkd",
  needs: tuple[str, ...] = _TEACHERS,
) -> Row:
  """From base, as long as RKD."""
  return Row(name, title, "demo", stage, "base", needs, settings, group=group)


_BEYOND = (
  fused("base", "base_fused", "base, fused with CLIP on crops"),
  fused("rkd", "rkd_fused", "RKD, fused with CLIP on crops"),
  fused("rkd_ils_weight_transfer", "fused", f"{_TRANSFER}, fused with CLIP on crops"),
  fused(
    "rkd_ils_weight_transfer",
    "fused_projection",
    f"{_TRANSFER}, fused with its distilled projection",
    "projection",
  ),
  *(
    Row(name, f"{_TRANSFER}, {title}", "demo", name, "rkd", needs, group="beyond", after=after)
    for name, title, needs, after in (
      ("retrieved", "retrieved regions in image batches", (*_TEACHERS, "retrieved"), ()),
      ("retrieved_boxes", "retrieved regions in box batches", (*_TEACHERS, "retrieved"), ()),
      ("refined", "its own detections", ("refined",), ("rkd_ils_weight_transfer",)),
    )
  ),
  Row(
    "retrieved_agreed",
    f"{_TRANSFER}, retrieved regions in box batches, weighed by agreement",
    "demo",
    "retrieved_boxes",
    "rkd",
    (*_TEACHERS, "retrieved"),
    {"loss.pseudo_agreement.on": True},
    group="beyond",
  ),
  fused(
    "retrieved_boxes",
    "recommended",
    f"{_TRANSFER}, retrieved regions in box batches, fused with CLIP on crops",
  ),
  *ceilings("rkd_ils_weight_transfer", _TRANSFER),
  *(
    _like_rkd(name, title, "beyond", stage=name)
    for name, title in (
      ("rkd_contrastive", "InfoNCE and relations in place of RKD's losses"),
      ("rkd_both", "RKD beside half of InfoNCE and relations"),
      ("rkd_teacher_boxes", "RKD, teacher boxes as foreground of the RPN"),
    )
  ),
)

_NO_IRM = {"loss.irm.weight": 0.0}
_LOSSES = (
  _like_rkd("rkd_no_irm", "L1 alone", "losses", _NO_IRM),
  _like_rkd("rkd_no_l1", "IRM alone", "losses", {"loss.rkd.weight": 0.0}),
  _like_rkd(
    "rkd_paper_equations",
    "L1 and IRM as the paper writes them",
    "losses",
    # Of each image alone, with the same two weights and no factor of 100.
    {
      "loss.images_per_group.box": 1,
      "loss.rkd.reduction": "sum",
      "loss.rkd.temperature": 1.0,
      "loss.irm.row_norm": "l2",
      "loss.irm.reduction": "mean",
      "loss.irm.temperature": 1.0,
      "loss.irm.weight": 0.05,
    },
  ),
)

_OF_RPN = {"data.teachers": "{root}/rpn_teachers/seed{seed}"}
_OF_TEN = {"data.teachers": "{root}/ten_teachers", "data.box.max_regions": 10}
_REGIONS = (
  _like_rkd(
    "rkd_rpn_no_irm",
    "RPN proposals, L1 alone",
    "regions",
    {**_OF_RPN, **_NO_IRM},
    needs=("rpn_teachers",),
  ),
  _like_rkd("rkd_rpn", "RPN proposals", "regions", _OF_RPN, needs=("rpn_teachers",)),
  _like_rkd("rkd_1", "1 of an image", "regions", {"data.box.max_regions": 1}),
  _like_rkd("rkd_3", "3 of an image", "regions", {"data.box.max_regions": 3}),
  _like_rkd("rkd_10", "10 of an image", "regions", _OF_TEN, needs=("ten_teachers",)),
)

_PROMPTS = tuple(
  Row(
    f"prompts_{name}",
    title,
    "demo",
    "rkd_ils_weight_transfer",
    "rkd",
    (*_TEACHERS, f"prompts_{name}"),
    {"class_embeddings": f"{{root}}/prompts/{name}.npz"},
    group="prompts",
  )
  for name, title in (("name", "the name alone"), ("captions", "mean of five captions"))
)

# Other records and their classes in place of a run's own, images as large as they are.
ELSEWHERE = {
  "data.name": "shapes_ovd/elsewhere",
  "class_embeddings": "{root}/elsewhere.npz",
  "data.eval.canvas": (160, 160),
  "data.eval.short_sides": (120,),
  "data.eval.max_side": 160,
}
_TRANSFERRED = tuple(
  Row(
    f"{name}_elsewhere",
    f"{title}, on another data set",
    parent=parent,
    needs=("elsewhere_records", "elsewhere_embeddings"),
    settings={**settings, **ELSEWHERE},
    trains=False,
    group="elsewhere",
  )
  for name, title, parent, settings in (
    ("base", "base", "base", {}),
    ("rkd", "RKD", "rkd", {}),
    ("rkd_ils_weight_transfer", _TRANSFER, "rkd_ils_weight_transfer", {}),
    ("fused", f"{_TRANSFER}, fused with CLIP on crops", "rkd_ils_weight_transfer", _CROPS),
    ("recommended", "recommended", "retrieved_boxes", _CROPS),
  )
)

_BOXES = tuple(
  Row(
    f"ils_{name}",
    title,
    "demo",
    "ils",
    "base",
    _TEACHERS,
    {"loss.ils.boxes": name, **settings},
    group="boxes",
  )
  for name, title, settings in (
    ("image", "whole image", {}),
    (
      "largest_region",
      "largest region of the teachers",
      # Regions are read for their boxes alone.
      {"data.image.max_regions": 5, "loss.rkd.on_image_batches": False},
    ),
    ("largest_proposal", "largest proposal of the detector", {}),
    ("best_proposal", "best proposal of the detector for the label", {}),
  )
)

_STRICT_TEACHERS = ("strict_teachers",)
_STRICT = tuple(
  Row(name, title, "demo", name, parent, needs, group="strict")
  for name, title, parent, needs in (
    ("strict_base", "base, CLIP of the strict setting", "", ("records", "strict_embeddings")),
    ("strict_rkd", "RKD, CLIP of the strict setting", "strict_base", _STRICT_TEACHERS),
    ("strict_control", f"{_TRANSFER}, CLIP of the strict setting", "strict_rkd", _STRICT_TEACHERS),
    (
      "strict",
      f"{_TRANSFER}, strict: image batches of 400 concepts",
      "strict_rkd",
      (*_STRICT_TEACHERS, "strict_concepts", "strict_concept_teachers"),
    ),
  )
)

DEMO = Recipe(
  "demo",
  "shapes_ovd",
  AP50,
  (
    *(*_COMPONENTS, *_BEYOND, *_LOSSES, *_REGIONS, *_BOXES, *_PROMPTS),
    *(*_TRANSFERRED, *_STRICT),
  ),
  demo_config.workdir,
  lambda root, seed: f"seed={seed},root={root}",
  groups={
    "beyond": Group("Beyond the paper", ("base", "rkd", "rkd_ils_weight_transfer")),
    "losses": Group("Distillation losses", ("base", "rkd")),
    "regions": Group("Regions that are distilled", ("base", "rkd", "rkd_no_irm")),
    "boxes": Group("Boxes that labels supervise", ("base", "ils")),
    "prompts": Group("Prompts", ("rkd_ils_weight_transfer",)),
    "elsewhere": Group("Another data set, without training on it"),
    "strict": Group("Unknown novel names (strict)"),
  },
)
