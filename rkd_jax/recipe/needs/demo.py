"""What the demo needs, all of it made from nothing by the commands of docs/demo.md."""

from rkd_jax import embed_classes, precompute, retrieve
from rkd_jax.configs import load
from rkd_jax.data.shapes_ovd import scenes, shapes_ovd
from rkd_jax.files import storage
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
from rkd_jax.recipe.training import is_finished, train_and_evaluate
from rkd_jax.teachers.images import Options
from rkd_jax.vocabulary import class_embeddings

SCENES, ELSEWHERE = "shapes_ovd/scenes", "shapes_ovd/elsewhere"
DEMO_SPLITS = ("train_boxes", "train_images")


def _demo_teachers(order: Order) -> list[str]:
  places = [f"--data_dir={order.root}/data", f"--dataset={SCENES}", f"--clip={order.root}/clip"]
  splits = f"--splits={','.join(DEMO_SPLITS)}"
  # The crops of 64 images of five regions, and of their pseudo boxes, in few calls.
  batch = "--batch_size=320"
  return ["rkd-jax", "precompute", *places, splits, batch, f"--output={order.root}/teachers"]


def _ten_teachers(order: Order) -> list[str]:
  teachers = [flag for flag in _demo_teachers(order) if not flag.startswith(("--splits", "--out"))]
  places = [f"--splits={DEMO_SPLITS[0]}", "--regions=10", f"--output={order.root}/ten_teachers"]
  return [*teachers, *places]


def _rpn_teachers(order: Order) -> list[str]:
  """The offline step with the RPN of a seed's base-only detector, of the images with boxes."""
  teachers = [flag for flag in _demo_teachers(order) if not flag.startswith(("--splits", "--out"))]
  base, (seed,) = order.recipe.row("base"), order.seeds
  proposer = ["--proposals=rpn", f"--checkpoint={order.folder(base, seed)}"]
  places = [f"--splits={DEMO_SPLITS[0]}", f"--output={order.root}/rpn_teachers/seed{seed}"]
  return [*teachers, *proposer, *places]


def _demo_rows(
  order: Order,
  name: str = class_embeddings.FILE,
  *templates: str,
  data_set: str = SCENES,
) -> list[str]:
  output = f"--output={order.root}/{name}"
  prompts = [f"--template={template}" for template in templates]
  clip = f"--clip={order.root}/clip"
  return ["rkd-jax", "embed-classes", clip, names_flag(order, data_set), *prompts, output]


def _prompts(name: str, *templates: str) -> Need:
  """Class embeddings of the demo with other prompts."""
  file = f"prompts/{name}.npz"
  return Need(
    f"Class embeddings, {name}",
    lambda order: storage.path(f"{order.root}/{file}").exists(),
    lambda order: _demo_rows(order, file, *templates),
    embed_classes.main,
    after=("records", "clip"),
  )


def _demo_retrieved(order: Order) -> list[str]:
  places = [f"--data_dir={order.root}/data", f"--dataset={SCENES}"]
  places += [f"--splits={','.join(DEMO_SPLITS)}", f"--teachers={order.root}/teachers"]
  rows = f"--class_embeddings={order.root}/{class_embeddings.FILE}"
  # The scale with which CLIP chooses pseudo boxes; these stay, before the retrieved ones.
  chosen = [f"--softmax={Options().logit_scale}", "--keep"]
  return ["rkd-jax", "retrieve", *places, rows, *chosen, f"--output={order.root}/retrieved"]


def _refined(order: Order) -> list[str]:
  """What a seed's detector finds of names without annotations, in the images with captions."""
  (seed,) = order.seeds
  detector = order.folder(order.recipe.row("rkd_ils_weight_transfer"), seed)
  own = [f"--detector={detector}", f"--splits={DEMO_SPLITS[1]}"]
  command = [flag for flag in _demo_retrieved(order) if not flag.startswith(("--splits", "--out"))]
  return [*command, *own, f"--output={order.root}/refined/seed{seed}"]


def _train_clip(flags: list[str]) -> None:
  given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
  train_and_evaluate(load(given["config"]), given["workdir"])


DEMO = {
  "records": Need(
    "Scenes",
    has_records(SCENES, "clip", *DEMO_SPLITS, "tune", "validation"),
    python_module("data.shapes_ovd.shapes_ovd", "--data_dir=ROOT/data"),
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
    has_rows,
    _demo_rows,
    embed_classes.main,
    after=("records", "clip"),
  ),
  "teachers": Need(
    "Offline step: proposals, region embeddings, pseudo boxes",
    has_results("teachers", *DEMO_SPLITS),
    _demo_teachers,
    precompute.main,
    after=("records", "clip"),
    looks=True,
  ),
  "retrieved": Need(
    "Regions of names without annotations",
    lambda order: is_retrieved(order, "retrieved"),
    _demo_retrieved,
    retrieve.main,
    after=("teachers", "class_embeddings"),
  ),
  "refined": Need(
    "The detector's own detections",
    lambda order: is_retrieved(order, f"refined/seed{order.seeds[0]}"),
    _refined,
    retrieve.main,
    after=("teachers", "class_embeddings"),
    after_row="rkd_ils_weight_transfer",
    each_seed=True,
  ),
  "ten_teachers": Need(
    "Offline step with ten regions of an image",
    has_results("ten_teachers", DEMO_SPLITS[0]),
    _ten_teachers,
    precompute.main,
    after=("records", "clip"),
  ),
  "rpn_teachers": Need(
    "Offline step with the proposals of base",
    lambda order: has_results(f"rpn_teachers/seed{order.seeds[0]}", DEMO_SPLITS[0])(order),
    _rpn_teachers,
    precompute.main,
    after=("records", "clip"),
    after_row="base",
    each_seed=True,
  ),
  "elsewhere_records": Need(
    "Scenes of another data set",
    has_records(ELSEWHERE, "tune", "validation"),
    python_module("data.shapes_ovd.shapes_ovd", "--data_dir=ROOT/data", "--name=elsewhere"),
    shapes_ovd.main,
    looks=True,
  ),
  "elsewhere_embeddings": Need(
    "Class embeddings of another data set",
    lambda order: storage.path(f"{order.root}/elsewhere.npz").exists(),
    lambda order: _demo_rows(order, "elsewhere.npz", data_set=ELSEWHERE),
    embed_classes.main,
    after=("elsewhere_records", "clip"),
  ),
  "prompts_name": _prompts("name", "{}"),
  "prompts_captions": _prompts("captions", *scenes.TEMPLATES[1]),
}
