"""What the rows of the demo need, all of which is made here."""

from collections.abc import Callable

from rkd_jax import embed_classes, precompute, retrieve
from rkd_jax.configs import load
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.files import storage
from rkd_jax.recipe.need import Need, has_records, has_results, has_rows, names_of, python
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


def _embedded(data_set: str, file: str) -> Callable[[Order], list[str]]:
  """The command that embeds the classes of records with the demo's CLIP."""

  def command(order: Order) -> list[str]:
    output, clip = f"--output={order.root}/{file}", f"--clip={order.root}/clip"
    return ["rkd-jax", "embed-classes", clip, names_of(order, data_set), output]

  return command


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


DEMO = {
  "records": Need(
    "Scenes",
    has_records(SCENES, "clip", *DEMO_SPLITS, "tune", "validation"),
    python("data.shapes_ovd.shapes_ovd", "--data_dir=ROOT/data"),
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
    _embedded(SCENES, class_embeddings.FILE),
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
    lambda order: storage.path(f"{order.root}/retrieved/{retrieve.SUMMARY}").exists(),
    _demo_retrieved,
    retrieve.main,
    after=("teachers", "class_embeddings"),
  ),
  "elsewhere_records": Need(
    "Scenes of another data set",
    has_records(ELSEWHERE, "tune", "validation"),
    python("data.shapes_ovd.shapes_ovd", "--data_dir=ROOT/data", "--name=elsewhere"),
    shapes_ovd.main,
    looks=True,
  ),
  "elsewhere_embeddings": Need(
    "Class embeddings of another data set",
    lambda order: storage.path(f"{order.root}/elsewhere.npz").exists(),
    _embedded(ELSEWHERE, "elsewhere.npz"),
    embed_classes.main,
    after=("elsewhere_records", "clip"),
  ),
}
