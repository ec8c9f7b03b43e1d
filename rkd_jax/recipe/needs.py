"""What rows need before they can be trained, and the commands of the documentation that make it.

A prerequisite is made here, by the entry that its command has, where everything it is made from is
there; of others it is said, before any step, which command makes them.
"""

import os
from collections.abc import Iterable, Mapping

from rkd_jax import convert, embed_classes, precompute
from rkd_jax.configs import load
from rkd_jax.files import storage
from rkd_jax.recipe.demo_needs import DEMO
from rkd_jax.recipe.need import Need, has_records, has_results, has_rows, names_of, python, shown
from rkd_jax.recipe.order import Order
from rkd_jax.recipe.rows import Row
from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.weights import published


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


def missing(order: Order, needs: Mapping[str, Need]) -> list[str]:
  """A sentence for each prerequisite that is not there and cannot be made from what is."""
  sentences = []
  for need in needs.values():
    if need.is_there(order):
      continue
    if problem := need.problem(order):
      sentences.append(problem)
      continue
    absent = [path for path in need.inputs(order) if not os.path.exists(path)]
    if need.make is not None and not absent:
      continue
    sentence = f"{need.what} of {order.root}: not there. Make it with: {shown(need.command(order))}"
    if absent:
      sentence += f", which needs {', '.join(map(_with_download, absent))}"
    sentences.append(f"{sentence}.")
  return sentences


def _with_download(path: str) -> str:
  """A file of weights, and the command that fetches it."""
  try:
    name = published.find(os.path.basename(path)).name
  except ValueError:
    return path
  return f"{path} (rkd-jax download {name})"


def _published_rows(data_set: str, matrix: str) -> Need:
  """Class embeddings from a matrix that the authors published."""

  def command(order: Order) -> list[str]:
    rows = f"--embeddings={order.weights}/{matrix}"
    output = f"--output={order.root}/{class_embeddings.FILE}"
    return ["rkd-jax", "embed-classes", rows, names_of(order, data_set), output]

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


_COCO = {
  "records": Need(
    "Records of OV-COCO",
    has_records("coco_ovd/plain", "train", "validation"),
    python("data.coco_ovd.coco_ovd", "--data_dir=ROOT/data", "--coco=COCO"),
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
}

_LVIS = {
  "records": Need(
    "Records of OV-LVIS",
    has_records("lvis_ovd/plain", "train", "validation"),
    python("data.lvis_ovd.lvis_ovd", "--data_dir=ROOT/data", "--lvis=LVIS", "--coco=COCO"),
  ),
  "class_embeddings": _published_rows("lvis_ovd/plain", "lvis_v1_clip_a+photo+cname.npy"),
  "imagenet": _imagenet("lvis/base", r"backbone\.fpn_.*,proposal_generator\..*,roi_heads\..*"),
  "teachers": _published_teachers(
    "Teachers' results of OV-LVIS", "lvis_ovd/plain", "teachers", after="records"
  ),
  "imagenet_records": Need(
    "Records of ImageNet-LVIS",
    has_records("imagenet_lvis/plain", "train"),
    python(
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
}


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


_OWN = {
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

NEEDS: dict[str, dict[str, Need]] = {
  "coco": _COCO,
  "lvis": _LVIS,
  "demo": DEMO,
  "coco_json": _OWN,
}
