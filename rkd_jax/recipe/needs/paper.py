"""What the paper's tables need: records, CLIP's rows, the ImageNet ResNet-50, the offline step."""

import os

from rkd_jax import convert, embed_classes, precompute, retrieve
from rkd_jax.configs import load
from rkd_jax.recipe.needs.need import (
  Need,
  has_records,
  has_results,
  has_rows,
  is_retrieved,
  names_flag,
  python_module,
)
from rkd_jax.recipe.order import Order
from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.teachers.images import Options
from rkd_jax.vocabulary import class_embeddings


def _published_rows(data_set: str, matrix: str) -> Need:
  """Class embeddings from a matrix that the authors published."""

  def command(order: Order) -> list[str]:
    rows = f"--embeddings={order.weights}/{matrix}"
    output = f"--output={order.root}/{class_embeddings.FILE}"
    return ["rkd-jax", "embed-classes", rows, names_flag(order, data_set), output]

  return Need(
    "Class embeddings",
    has_rows,
    command,
    embed_classes.main,
    lambda order: [f"{order.weights}/{matrix}"],
    after=("records",),
  )


def _published_teachers(what: str, data_set: str, folder: str, *flags: str, after: str) -> Need:
  """MAVL and CLIP ViT-B/32 asked about all images that are trained on."""
  files = {
    "checkpoint": "MDef_DETR_r101_epoch20.pth",
    "vocabulary": "roberta-base/vocab.json",
    "merges": "roberta-base/merges.txt",
    "clip": "ViT-B-32.pt",
  }

  def command(order: Order) -> list[str]:
    data = [f"--data_dir={order.root}/data", f"--dataset={data_set}", "--splits=train"]
    weights = [f"--{flag}={order.weights}/{file}" for flag, file in files.items()]
    output = [*flags, f"--output={order.root}/{folder}"]
    return ["rkd-jax", "precompute", *data, "--proposals=mvit", *weights, *output]

  return Need(
    what,
    has_results(folder, "train"),
    command,
    precompute.main,
    lambda order: [f"{order.weights}/{file}" for file in files.values()],
    after=(after,),
  )


def _retrieved(data_set: str) -> Need:
  """Regions of the names without annotations, beside MAVL's pseudo boxes."""

  def command(order: Order) -> list[str]:
    data = [f"--data_dir={order.root}/data", f"--dataset={data_set}", "--splits=train"]
    rows = f"--class_embeddings={order.root}/{class_embeddings.FILE}"
    chosen = [f"--teachers={order.root}/teachers", rows, f"--softmax={Options().logit_scale}"]
    return ["rkd-jax", "retrieve", *data, *chosen, "--keep", f"--output={order.root}/retrieved"]

  return Need(
    "Regions of names without annotations",
    lambda order: is_retrieved(order, "retrieved"),
    command,
    retrieve.main,
    after=("teachers", "class_embeddings"),
  )


def _clip() -> Need:
  """CLIP ViT-B/32, which nothing here makes: scores are fused with its."""
  return Need(
    "CLIP ViT-B/32",
    lambda order: os.path.exists(f"{order.weights}/ViT-B-32.pt"),
    lambda order: ["rkd-jax", "download", "clip-vit-b-32", f"--output={order.weights}"],
  )


def _imagenet(config: str, allow: str) -> Need:
  """The backbone that training starts from: MSRA's ResNet-50 as a run's folder."""

  def command(order: Order) -> list[str]:
    places = [f"--input={order.weights}/R-50.pkl", f"--output={order.root}/imagenet"]
    return ["rkd-jax", "convert", f"--config={config}", *places, f"--allow={allow}"]

  def make(flags: list[str]) -> None:
    given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    patterns = given["allow"].split(",")
    print(convert.to_rkd_jax(load(config), given["input"], given["output"], patterns))

  return Need(
    "The ImageNet ResNet-50",
    lambda order: latest_step(f"{order.root}/imagenet") is not None,
    command,
    make,
    lambda order: [f"{order.weights}/R-50.pkl"],
  )


COCO = {
  "records": Need(
    "Records of OV-COCO",
    has_records("coco_ovd/plain", "train", "validation"),
    python_module("data.coco_ovd.coco_ovd", "--data_dir=ROOT/data", "--coco=COCO"),
  ),
  "class_embeddings": _published_rows("coco_ovd/plain", "coco_clip_a+photo+cname.npy"),
  "imagenet": _imagenet("coco/base", r"proposal_generator\..*,roi_heads\.box_predictor\..*"),
  "teachers": _published_teachers(
    "Teachers' results",
    "coco_ovd/plain",
    "teachers",
    "--pseudo_box_threshold=0.95",
    after="records",
  ),
  "retrieved": _retrieved("coco_ovd/plain"),
  "clip": _clip(),
}

LVIS = {
  "records": Need(
    "Records of OV-LVIS",
    has_records("lvis_ovd/plain", "train", "validation"),
    python_module("data.lvis_ovd.lvis_ovd", "--data_dir=ROOT/data", "--lvis=LVIS", "--coco=COCO"),
  ),
  "class_embeddings": _published_rows("lvis_ovd/plain", "lvis_v1_clip_a+photo+cname.npy"),
  "imagenet": _imagenet("lvis/base", r"backbone\.fpn_.*,proposal_generator\..*,roi_heads\..*"),
  "teachers": _published_teachers(
    "Teachers' results of OV-LVIS", "lvis_ovd/plain", "teachers", after="records"
  ),
  "imagenet_records": Need(
    "Records of ImageNet-LVIS",
    has_records("imagenet_lvis/plain", "train"),
    python_module(
      "data.imagenet_lvis.imagenet_lvis",
      *("--data_dir=ROOT/data", "--lvis=LVIS", "--imagenet=IMAGENET"),
      "--wordnet=dict/index.noun",
    ),
  ),
  "imagenet_teachers": _published_teachers(
    "Teachers' results of ImageNet-LVIS",
    "imagenet_lvis/plain",
    "imagenet_teachers",
    *("--pseudo_box_threshold=0", "--records_per_shard=8192"),
    after="imagenet_records",
  ),
  "retrieved": _retrieved("lvis_ovd/plain"),
  "clip": _clip(),
}
