"""Rows that evaluate a trained one again with CLIP's scores: fused with its own, or alone."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rkd_jax.recipe.rows import Row

_FUSION = "model.test.fusion"
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


def fused(
  row: str,
  name: str,
  title: str,
  kind: str = "crops",
  settings: Mapping[str, Any] = NO_SETTINGS,
  **more: Any,
) -> Row:
  """A trained row evaluated once more with fused scores; `more` are fields of the new one."""
  settings = {f"{_FUSION}.kind": kind, **settings}
  return Row(name, title, "", "", row, ("clip",), settings, trains=False, group="beyond", **more)


def ceilings(row: str, title: str, settings: Mapping[str, Any] = NO_SETTINGS) -> tuple[Row, Row]:
  """CLIP alone on the boxes of a trained row, and on the annotated ones: how far it can get."""
  alone = {**settings, f"{_FUSION}.base": 1.0, f"{_FUSION}.novel": 1.0}
  return (
    fused(
      row, "clip_on_detections", f"CLIP alone on the boxes of {title}", settings=alone, control=True
    ),
    fused(
      row,
      "clip_on_annotations",
      "CLIP alone on annotated boxes",
      settings=settings,
      control=True,
      of_annotations=True,
    ),
  )
