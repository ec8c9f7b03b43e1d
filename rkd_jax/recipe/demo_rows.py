"""The rows of the demo: the paper's components, its ablations, and what goes beyond it.

An ablation changes one thing of the row that its table shows beside it, and is trained from the
same run for as many steps.
"""

from rkd_jax.configs import demo as demo_config
from rkd_jax.pictures.components import AP50
from rkd_jax.recipe.rows import Group, Recipe, Row

_TRAINED, _TEACHERS = ("records", "class_embeddings"), ("teachers",)
_TRANSFER = "RKD + ILS + weight transfer"
_FUSED = {"model.test.fusion.kind": "crops"}

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


def _like_rkd(name: str, title: str, group: str, needs=_TEACHERS, stage="rkd", **settings) -> Row:
  """From base, as long as RKD; keywords are settings, with '__' for the dots."""
  changed = {key.replace("__", "."): value for key, value in settings.items()}
  return Row(name, title, "demo", stage, "base", needs, changed, group=group)


def _again(row: str, name: str, title: str, **settings) -> Row:
  """A trained row evaluated once more, with fused scores."""
  return Row(name, title, parent=row, needs=("clip",), trains=False, group="beyond", **settings)


_BEYOND = (
  _again("base", "base_fused", "base, fused with CLIP on crops", settings=_FUSED),
  _again("rkd", "rkd_fused", "RKD, fused with CLIP on crops", settings=_FUSED),
  _again(
    "rkd_ils_weight_transfer", "fused", f"{_TRANSFER}, fused with CLIP on crops", settings=_FUSED
  ),
  _again(
    "rkd_ils_weight_transfer",
    "fused_projection",
    f"{_TRANSFER}, fused with its distilled projection",
    settings={"model.test.fusion.kind": "projection"},
  ),
  *(
    Row(name, f"{_TRANSFER}, {title}", "demo", name, "rkd", needs, group="beyond", after=after)
    for name, title, needs, after in (
      ("retrieved", "retrieved regions in image batches", (*_TEACHERS, "retrieved"), ()),
      ("retrieved_boxes", "retrieved regions in box batches", (*_TEACHERS, "retrieved"), ()),
      ("refined", "its own detections", ("refined",), ("rkd_ils_weight_transfer",)),
    )
  ),
  _again(
    "retrieved_boxes",
    "recommended",
    f"{_TRANSFER}, retrieved regions in box batches, fused with CLIP on crops",
    settings=_FUSED,
  ),
  *(
    _like_rkd(name, title, "beyond", stage=name)
    for name, title in (
      ("rkd_contrastive", "InfoNCE and relations in place of RKD's losses"),
      ("rkd_both", "RKD beside half of InfoNCE and relations"),
      ("rkd_teacher_boxes", "RKD, teacher boxes as foreground of the RPN"),
    )
  ),
)

_LOSSES = (
  _like_rkd("rkd_no_irm", "L1 alone", "losses", loss__irm__weight=0.0),
  _like_rkd("rkd_no_l1", "IRM alone", "losses", loss__rkd__weight=0.0),
  _like_rkd(
    "rkd_paper_equations",
    "L1 and IRM as the paper writes them",
    "losses",
    # Of each image alone, with the same two weights and no factor of 100.
    loss__images_per_group__box=1,
    loss__rkd__reduction="sum",
    loss__rkd__temperature=1.0,
    loss__irm__row_norm="l2",
    loss__irm__reduction="mean",
    loss__irm__temperature=1.0,
    loss__irm__weight=0.05,
  ),
)

_RPN = {"needs": ("rpn_teachers",), "data__teachers": "{root}/rpn_teachers/seed{seed}"}
_TEN = {"needs": ("ten_teachers",), "data__teachers": "{root}/ten_teachers"}
_REGIONS = (
  _like_rkd("rkd_rpn_no_irm", "RPN proposals, L1 alone", "regions", loss__irm__weight=0.0, **_RPN),
  _like_rkd("rkd_rpn", "RPN proposals", "regions", **_RPN),
  *(
    _like_rkd(f"rkd_{count}", f"{count} of an image", "regions", data__box__max_regions=count)
    for count in (1, 3)
  ),
  _like_rkd("rkd_10", "10 of an image", "regions", data__box__max_regions=10, **_TEN),
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
_ELSEWHERE = {
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
    settings={**settings, **_ELSEWHERE},
    trains=False,
    group="elsewhere",
  )
  for name, title, parent, settings in (
    ("base", "base", "base", {}),
    ("rkd", "RKD", "rkd", {}),
    ("rkd_ils_weight_transfer", _TRANSFER, "rkd_ils_weight_transfer", {}),
    ("fused", f"{_TRANSFER}, fused with CLIP on crops", "rkd_ils_weight_transfer", _FUSED),
    ("recommended", "recommended", "retrieved_boxes", _FUSED),
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
