"""What rows need before they can be trained, and the commands of the documentation that make it.

A prerequisite is made here, by the entry that its command has, where everything it is made from is
there; of others it is said, before any step, which command makes them.
"""

import dataclasses
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence

from rkd_jax import convert, embed_classes, precompute, retrieve
from rkd_jax.configs import load
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.files import storage
from rkd_jax.recipe.order import Order
from rkd_jax.recipe.rows import Row
from rkd_jax.recipe.training import is_finished, train_and_evaluate
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.sources import open_source
from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.teachers.images import Options
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.weights import published


@dataclasses.dataclass(frozen=True)
class Need:
  """A prerequisite of rows.

  Attributes:
    what: it is, for people.
    is_there: whether it is made; may look at files alone.
    command: what makes it, as the documentation has it, in words.
    make: takes the flags of the command; None where a person has to give it something.
    inputs: files or folders that are needed to make it, beside other prerequisites.
    after: other prerequisites that it is made from.
    after_row: the row whose run, of the first seed, it is made from.
    looks: the command is given even if all is there: it sees at once whether that is the right
      one, and does nothing more.
    problem: a sentence on why there can be none; '' if there can.
  """

  what: str
  is_there: Callable[[Order], bool]
  command: Callable[[Order], list[str]]
  make: Callable[[list[str]], object] | None = None
  inputs: Callable[[Order], list[str]] = lambda order: []
  after: tuple[str, ...] = ()
  after_row: str = ""
  looks: bool = False
  problem: Callable[[Order], str] = lambda order: ""


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


def _has_records(data_set: str, *splits: str) -> Callable[[Order], bool]:
  def is_there(order: Order) -> bool:
    try:
      for split in splits:
        open_source(f"{order.root}/data", data_set, split)
    except ValueError:
      return False
    return True

  return is_there


def _has_results(folder: str, *splits: str) -> Callable[[Order], bool]:
  def is_there(order: Order) -> bool:
    try:
      for split in splits:
        TeacherReader(f"{order.root}/{folder}", split)
    except ValueError:
      return False
    return True

  return is_there


def _has_rows(order: Order) -> bool:
  return storage.path(f"{order.root}/{class_embeddings.FILE}").exists()


def _python(module: str, *flags: str) -> Callable[[Order], list[str]]:
  """`python -m rkd_jax.MODULE` with flags in which ROOT stands for the root."""
  words = ["python", "-m", f"rkd_jax.{module}", *flags]
  return lambda order: [word.replace("ROOT", order.root) for word in words]


def _names(order: Order, data_set: str) -> str:
  """The file with the class names of records, one on each line in the order of their numbers."""
  found = storage.matching(f"{order.root}/data/{data_set}", "[0-9]*.*.*/objects-label.labels.txt")
  place = f"{order.root}/data/{data_set}/1.0.0/objects-label.labels.txt"
  return f"--names=@{found[-1] if found else place}"


def _published_rows(data_set: str, matrix: str) -> Need:
  """Class embeddings from a matrix that the authors published."""

  def command(order: Order) -> list[str]:
    rows = f"--embeddings={order.weights}/{matrix}"
    output = f"--output={order.root}/{class_embeddings.FILE}"
    return ["rkd-jax", "embed-classes", rows, _names(order, data_set), output]

  return Need(
    "Class embeddings",
    _has_rows,
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
    _has_results(folder, "train"),
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
    _has_records("coco_ovd/plain", "train", "validation"),
    _python("data.coco_ovd.coco_ovd", "--data_dir=ROOT/data", "--coco=COCO"),
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
    _has_records("lvis_ovd/plain", "train", "validation"),
    _python("data.lvis_ovd.lvis_ovd", "--data_dir=ROOT/data", "--lvis=LVIS", "--coco=COCO"),
  ),
  "class_embeddings": _published_rows("lvis_ovd/plain", "lvis_v1_clip_a+photo+cname.npy"),
  "imagenet": _imagenet("lvis/base", r"backbone\.fpn_.*,proposal_generator\..*,roi_heads\..*"),
  "teachers": _published_teachers(
    "Teachers' results of OV-LVIS", "lvis_ovd/plain", "teachers", after="records"
  ),
  "imagenet_records": Need(
    "Records of ImageNet-LVIS",
    _has_records("imagenet_lvis/plain", "train"),
    _python(
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

SCENES = "shapes_ovd/scenes"
DEMO_SPLITS = ("train_boxes", "train_images")


def _demo_teachers(order: Order) -> list[str]:
  places = [f"--data_dir={order.root}/data", f"--dataset={SCENES}", f"--clip={order.root}/clip"]
  splits = f"--splits={','.join(DEMO_SPLITS)}"
  # The crops of 64 images of five regions, and of their pseudo boxes, in few calls.
  batch = "--batch_size=320"
  return ["rkd-jax", "precompute", *places, splits, batch, f"--output={order.root}/teachers"]


def _demo_rows(order: Order) -> list[str]:
  output = f"--output={order.root}/{class_embeddings.FILE}"
  clip = f"--clip={order.root}/clip"
  return ["rkd-jax", "embed-classes", clip, _names(order, SCENES), output]


def _demo_retrieved(order: Order) -> list[str]:
  places = [f"--data_dir={order.root}/data", f"--dataset={SCENES}"]
  places += [f"--splits={','.join(DEMO_SPLITS)}", f"--teachers={order.root}/teachers"]
  rows = f"--class_embeddings={order.root}/{class_embeddings.FILE}"
  # The scale with which CLIP chooses pseudo boxes; these stay, before the retrieved ones.
  chosen = [f"--softmax={Options().logit_scale}", "--keep"]
  return ["rkd-jax", "retrieve", *places, rows, *chosen, f"--output={order.root}/retrieved"]


def _train_clip(flags: list[str]) -> None:
  given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
  train_and_evaluate(load(given["config"]), given["workdir"])


_DEMO = {
  "records": Need(
    "Scenes",
    _has_records(SCENES, "clip", *DEMO_SPLITS, "tune", "validation"),
    _python("data.shapes_ovd.shapes_ovd", "--data_dir=ROOT/data"),
    shapes_ovd.main,
    looks=True,
  ),
  "clip": Need(
    "CLIP on captioned scenes",
    lambda order: is_finished(load(f"demo:clip,root={order.root}"), f"{order.root}/clip"),
    lambda order: [
      *("rkd-jax", "train", f"--config=demo:clip,root={order.root}"),
      f"--workdir={order.root}/clip",
    ],
    _train_clip,
    after=("records",),
  ),
  "class_embeddings": Need(
    "Class embeddings",
    _has_rows,
    _demo_rows,
    embed_classes.main,
    after=("records", "clip"),
  ),
  "teachers": Need(
    "Offline step: proposals, region embeddings, pseudo boxes",
    _has_results("teachers", *DEMO_SPLITS),
    _demo_teachers,
    precompute.main,
    after=("records", "clip"),
    looks=True,
  ),
  "retrieved": Need(
    "Regions of names without annotations",
    lambda order: storage.path(f"{order.root}/retrieved/{retrieve.SUMMARY}").exists(),
    _demo_retrieved,
    retrieve.main,
    after=("teachers", "class_embeddings"),
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
  if not _has_rows(order) or not class_embeddings.load(file).is_closed:
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
  "records": Need("Records", _has_records("coco_json/plain", "train"), _own_data),
  "class_embeddings": Need("Class embeddings", _has_rows, _own_data),
  "teachers": Need(
    "Teachers' results",
    _has_results("teachers", "train"),
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
  "demo": _DEMO,
  "coco_json": _OWN,
}
