"""What own photographs need: the folder that `rkd-jax data` begins, and the offline step."""

import os

from rkd_jax import precompute
from rkd_jax.files import storage
from rkd_jax.recipe.needs.need import (
  Need,
  has_records,
  has_results,
  has_rows,
)
from rkd_jax.recipe.order import Order
from rkd_jax.vocabulary import class_embeddings


def _own_clip(order: Order) -> str:
  """The CLIP of an own project: as given, that of its class embeddings, or ViT-B/32."""
  if order.clip:
    return order.clip
  file = storage.path(f"{order.root}/{class_embeddings.FILE}")
  stored = class_embeddings.load(file) if file.exists() else None
  if stored is not None and stored.clip is not None:
    return os.path.join(order.root, stored.clip)
  return f"{order.weights}/ViT-B-32.pt"


def _closed(order: Order) -> str:
  file = f"{order.root}/{class_embeddings.FILE}"
  if not has_rows(order) or not class_embeddings.load(file).is_closed:
    return ""
  return (
    f"{file} is of a closed vocabulary, made without a CLIP, so that there are no teachers: take "
    "--rows=base, or give the command of `rkd-jax data` again with --clip=WEIGHTS, and train base "
    "again."
  )


def _own_teachers(order: Order) -> list[str]:
  flags = [f"--root={order.root}", f"--clip={_own_clip(order)}"]
  base, seed = order.recipe.row("base"), order.seeds[0]
  if seed:
    flags += ["--proposals=rpn", f"--checkpoint={order.folder(base, seed)}"]
  return ["rkd-jax", "precompute", *flags]


def _own_data(order: Order) -> list[str]:
  clip = f"--clip={_own_clip(order)}"
  return ["rkd-jax", "data", "--source=PHOTOS", f"--output={order.root}", clip]


OWN = {
  "records": Need("Records", has_records("coco_json/plain", "train"), _own_data),
  "class_embeddings": Need("Class embeddings", has_rows, _own_data),
  "teachers": Need(
    "Teachers' results",
    has_results("teachers", "train"),
    _own_teachers,
    precompute.main,
    lambda order: [_own_clip(order)],
    after=("records", "class_embeddings"),
    after_row="base",
    problem=_closed,
  ),
}
