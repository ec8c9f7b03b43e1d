"""What the rows of the demo need, all of which is made here."""

from collections.abc import Sequence

from rkd_jax import embed_classes, precompute, retrieve
from rkd_jax.configs import load
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.files import storage
from rkd_jax.recipe.need import Need, has_records, has_results, names_of, python
from rkd_jax.recipe.order import Order
from rkd_jax.recipe.training import is_finished, train_and_evaluate
from rkd_jax.teachers.images import Options
from rkd_jax.vocabulary import class_embeddings

SCENES, ELSEWHERE, CONCEPTS = (f"shapes_ovd/{name}" for name in ("scenes", "elsewhere", "concepts"))
DEMO_SPLITS = ("train_boxes", "train_images")


def _teachers(
  what: str,
  data_set: str,
  splits: Sequence[str],
  folder: str,
  clip: str = "clip",
  after: tuple[str, ...] = ("records", "clip"),
) -> Need:
  """Proposals of images, and a CLIP of the demo asked about them."""

  def command(order: Order) -> list[str]:
    places = [f"--data_dir={order.root}/data", f"--dataset={data_set}"]
    # The crops of 64 images of five regions, and of their pseudo boxes, in few calls.
    options = [f"--clip={order.root}/{clip}", f"--splits={','.join(splits)}", "--batch_size=320"]
    return ["rkd-jax", "precompute", *places, *options, f"--output={order.root}/{folder}"]

  return Need(what, has_results(folder, *splits), command, precompute.main, after=after, looks=True)


def _embeddings(
  what: str, data_set: str, file: str, clip: str = "clip", *, after: tuple[str, ...]
) -> Need:
  """The classes of records, embedded by a CLIP of the demo."""

  def command(order: Order) -> list[str]:
    output, by = f"--output={order.root}/{file}", f"--clip={order.root}/{clip}"
    return ["rkd-jax", "embed-classes", by, names_of(order, data_set), output]

  return Need(
    what,
    lambda order: storage.path(f"{order.root}/{file}").exists(),
    command,
    embed_classes.main,
    after=after,
  )


def _clip(what: str, stage: str, folder: str, after: str) -> Need:
  """A CLIP that is trained here."""

  def config(order: Order) -> str:
    return f"demo:{stage},root={order.root}"

  return Need(
    what,
    lambda order: is_finished(load(config(order)), f"{order.root}/{folder}"),
    lambda order: [
      *("rkd-jax", "train", f"--config={config(order)}"),
      f"--workdir={order.root}/{folder}",
    ],
    _train_clip,
    after=(after,),
  )


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
  "clip": _clip("CLIP on captioned scenes", "clip", "clip", "records"),
  "class_embeddings": _embeddings(
    "Class embeddings", SCENES, class_embeddings.FILE, after=("records", "clip")
  ),
  "teachers": _teachers(
    "Offline step: proposals, region embeddings, pseudo boxes", SCENES, DEMO_SPLITS, "teachers"
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
  "elsewhere_embeddings": _embeddings(
    "Class embeddings of another data set",
    ELSEWHERE,
    "elsewhere.npz",
    after=("elsewhere_records", "clip"),
  ),
  "concepts": Need(
    "Scenes of concepts",
    has_records(CONCEPTS, "clip", "train_images", "tune"),
    python("data.shapes_ovd.shapes_ovd", "--data_dir=ROOT/data", "--name=concepts"),
    shapes_ovd.main,
    looks=True,
  ),
  "strict_clip": _clip(
    "CLIP on captions that name concepts, too", "strict_clip", "strict/clip", "concepts"
  ),
  "strict_embeddings": _embeddings(
    "Class embeddings of the strict setting's CLIP",
    SCENES,
    f"strict/{class_embeddings.FILE}",
    "strict/clip",
    after=("records", "strict_clip"),
  ),
  "strict_concepts": _embeddings(
    "Embeddings of the concepts",
    CONCEPTS,
    "strict/concepts.npz",
    "strict/clip",
    after=("concepts", "strict_clip"),
  ),
  "strict_teachers": _teachers(
    "Offline step of the strict setting's CLIP",
    SCENES,
    DEMO_SPLITS,
    "strict/teachers",
    "strict/clip",
    ("records", "strict_clip"),
  ),
  "strict_concept_teachers": _teachers(
    "Offline step on the images of concepts",
    CONCEPTS,
    ("train_images",),
    "strict/concept_teachers",
    "strict/clip",
    ("concepts", "strict_clip"),
  ),
}
