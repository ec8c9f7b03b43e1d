"""What the demo needs, all of it made from nothing by the commands of docs/demo.md."""

from collections.abc import Sequence

from rkd_jax import embed_classes, precompute, retrieve
from rkd_jax.configs import load
from rkd_jax.data.shapes_ovd import scenes, shapes_ovd
from rkd_jax.files import storage
from rkd_jax.recipe.needs.need import (
  Need,
  has_records,
  has_results,
  is_retrieved,
  names_flag,
  python_module,
)
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
  more: Sequence[str] = (),
) -> Need:
  """Proposals of images, and a CLIP of the demo asked about them."""

  def command(order: Order) -> list[str]:
    places = [f"--data_dir={order.root}/data", f"--dataset={data_set}"]
    # The crops of 64 images of five regions, and of their pseudo boxes, in few calls.
    options = [f"--clip={order.root}/{clip}", f"--splits={','.join(splits)}", "--batch_size=320"]
    output = [*more, f"--output={order.root}/{folder}"]
    return ["rkd-jax", "precompute", *places, *options, *output]

  return Need(what, has_results(folder, *splits), command, precompute.main, after=after, looks=True)


def _embeddings(
  what: str,
  data_set: str,
  file: str,
  clip: str = "clip",
  templates: Sequence[str] = (),
  *,
  after: tuple[str, ...],
) -> Need:
  """The classes of records, embedded by a CLIP of the demo."""

  def command(order: Order) -> list[str]:
    output, by = f"--output={order.root}/{file}", f"--clip={order.root}/{clip}"
    prompts = [f"--template={template}" for template in templates]
    return ["rkd-jax", "embed-classes", by, names_flag(order, data_set), *prompts, output]

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


def _refined(order: Order) -> list[str]:
  """What a seed's detector finds of names without annotations, in the images with captions."""
  (seed,) = order.seeds
  detector = order.folder(order.recipe.row("rkd_ils_weight_transfer"), seed)
  own = [f"--detector={detector}", f"--splits={DEMO_SPLITS[1]}"]
  command = [flag for flag in _demo_retrieved(order) if not flag.startswith(("--splits", "--out"))]
  return [*command, *own, f"--output={order.root}/refined/seed{seed}"]


def _rpn_teachers(order: Order) -> list[str]:
  """The offline step with the RPN of a seed's base-only detector, of the images with boxes."""
  (seed,) = order.seeds
  proposer = ["--proposals=rpn", f"--checkpoint={order.folder(order.recipe.row('base'), seed)}"]
  folder = f"rpn_teachers/seed{seed}"
  return _teachers("", SCENES, DEMO_SPLITS[:1], folder, more=proposer).command(order)


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
  "clip": _clip("CLIP on captioned scenes", "clip", "clip", "records"),
  "class_embeddings": _embeddings(
    "Class embeddings", SCENES, class_embeddings.FILE, after=("records", "clip")
  ),
  "teachers": _teachers(
    "Offline step: proposals, region embeddings, pseudo boxes", SCENES, DEMO_SPLITS, "teachers"
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
  "ten_teachers": _teachers(
    "Offline step with ten regions of an image",
    SCENES,
    DEMO_SPLITS[:1],
    "ten_teachers",
    more=["--regions=10"],
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
  **{
    f"prompts_{name}": _embeddings(
      f"Class embeddings, {name}",
      SCENES,
      f"prompts/{name}.npz",
      templates=templates,
      after=("records", "clip"),
    )
    for name, templates in (("name", ("{}",)), ("captions", scenes.TEMPLATES[1]))
  },
  "elsewhere_records": Need(
    "Scenes of another data set",
    has_records(ELSEWHERE, "tune", "validation"),
    python_module("data.shapes_ovd.shapes_ovd", "--data_dir=ROOT/data", "--name=elsewhere"),
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
    python_module("data.shapes_ovd.shapes_ovd", "--data_dir=ROOT/data", "--name=concepts"),
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
