"""The whole method on the embedded dataset: from nothing to a report, in one command.

  python -m rkd_jax.demo --root=runs/demo
  python -m rkd_jax.demo --root=runs/demo --ablation --seeds=0,1,2

Scenes -> CLIP -> class embeddings -> offline step -> base -> RKD -> RKD + ILS +
weight transfer -> table, results.json, report.html.  Every step is skipped where
its result is there, and training resumes, so an interrupted run goes on.
"""

import json
import time
from collections.abc import Iterable, Sequence

import ml_collections
import numpy as np
from absl import flags
from etils import epath

from rkd_jax import commands
from rkd_jax.configs import demo as demo_config
from rkd_jax.frozen.clip import RegionEncoder, load_clip
from rkd_jax.frozen.detector import Detector
from rkd_jax.frozen.regions import crop_regions
from rkd_jax.inputs import examples
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.pictures import components, figures
from rkd_jax.recipe.demo_needs import SCENES
from rkd_jax.recipe.order import Order, parse_seeds
from rkd_jax.recipe.rows import find
from rkd_jax.recipe.run import Clock, run
from rkd_jax.recipe.table import statistics
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.sources import Source, decode_image, open_source
from rkd_jax.report.build import build
from rkd_jax.report.examination import open_run
from rkd_jax.teachers.pipeline import assess

RECIPE = find("demo")
DEMO_STAGES = ("base", "rkd", "rkd_ils_weight_transfer", "fused")
ABLATION_STAGES = tuple(row.name for row in RECIPE.chosen())
SIMILARITY_IMAGES, REPORT_IMAGES = 128, 400


def order_of(root: str, seeds: Sequence[int], ablation: bool) -> Order:
  """The rows of the demo, or with `ablation` all of the table, as the recipe makes them."""
  stages = ABLATION_STAGES if ablation else DEMO_STAGES
  return Order(RECIPE, root, tuple(seeds), tuple(map(RECIPE.row, stages)))


def stage_config(root: str, stage: str, seed: int) -> ml_collections.ConfigDict:
  """The config of a row's run, locked."""
  return order_of(root, [seed], ablation=True).config(RECIPE.row(stage), seed)


def teachers_facts(root: str) -> dict[str, float]:
  """What is known of the demo's CLIP and of its proposals."""
  quality = json.loads((epath.Path(root) / "clip" / "evaluation.json").read_text())
  report = epath.Path(root) / "teachers" / "train_boxes" / "report.json"
  if report.exists():
    recall = json.loads(report.read_text())["box_recall"]
  else:  # of an earlier version
    source = open_source(f"{root}/data", SCENES, "train_boxes")
    recall = assess(source, TeacherReader(f"{root}/teachers", "train_boxes"))["box_recall"]
  return {**quality, "top5_recall_base": recall}


def _opened(root: str, stage: str, seed: int, source: Source, indices: Iterable[int]):
  """A stage's detector, and a batch of some images."""
  config = stage_config(root, stage, seed)
  records, spec = [source[i] for i in indices], detector_specs(config)["eval"]
  batch = examples.collate([examples.detector_example(r, decode_image(r), spec) for r in records])
  return Detector.restore(config, demo_config.workdir(root, stage, seed)), batch


def similarity_matrices(root: str, seed: int, source: Source) -> dict[str, np.ndarray]:
  """Similarity of class-mean region embeddings of novel classes: CLIP, base, RKD.

  Regions are the validation boxes of novel classes, the same for all three.
  """
  novel = [source.class_names.index(name) for name in source.novel]
  records = [source[i] for i in range(SIMILARITY_IMAGES)]
  kept = [np.isin(record.classes, novel) for record in records]
  classes = np.concatenate([record.classes[keep] for record, keep in zip(records, kept)])
  counts = np.array([keep.sum() for keep in kept])
  shown = np.arange(max(len(record.boxes) for record in records)) < counts[:, None]
  boxes = np.zeros((*shown.shape, 4), np.float32)
  boxes[shown] = np.concatenate([record.boxes[keep] for record, keep in zip(records, kept)])
  clip = load_clip(f"{root}/clip")
  own = [(decode_image(record), record.boxes[keep]) for record, keep in zip(records, kept)]
  crops = [crop_regions(image, regions, clip.image_size) for image, regions in own]
  embeddings = {"CLIP": RegionEncoder(clip, 320).embed(np.concatenate(crops))}
  for stage in ("base", "rkd"):
    detector, batch = _opened(root, stage, seed, source, range(SIMILARITY_IMAGES))
    embeddings[RECIPE.row(stage).title] = detector.embed_regions(batch, boxes)[shown]
  return {
    name: figures.class_similarities(rows, classes, novel) for name, rows in embeddings.items()
  }


def write_results(
  root: str, results: dict[str, list[dict]], ablation: bool
) -> list[components.Row]:
  """results.json of the demo, or ablation.json with every seed, mean and spread."""
  content = {}
  for stage, runs in results.items():
    values = {metric: [run[metric] for run in runs] for metric in components.METRICS}
    content[stage] = {m: statistics(own) if ablation else own[0] for m, own in values.items()}
  file = epath.Path(root) / ("ablation.json" if ablation else "results.json")
  file.write_text(json.dumps(content, indent=2) + "\n")
  rows = {stage: RECIPE.row(stage) for stage in results}
  return [components.Row(rows[s].title, runs, rows[s].control) for s, runs in results.items()]


def main(given: flags.FlagValues) -> None:
  order = order_of(given.root, parse_seeds(given.seeds), given.ablation)
  root, first = order.root, order.seeds[0]
  clock = Clock()
  results = run(order, clock)
  with clock("report"):
    rows = write_results(root, results, given.ablation)
    source = open_source(f"{root}/data", SCENES, "validation")
    file = f"{root}/{'ablation' if given.ablation else 'report'}.html"
    notes = _notes(teachers_facts(root), clock, len(source))
    build(
      [open_run(order.folder(row, first), row.title) for row in order.rows if row.trains],
      file,
      "rkd_jax on shapes_ovd",
      REPORT_IMAGES,
      before=[components.component_section(rows, notes)],
      after=[components.similarity_section(similarity_matrices(root, first, source), source.novel)],
    )
  print("\n" + components.format_table(rows))
  print(f"\n{file}: open it in a browser.  {time.monotonic() - clock.begin:.0f} s in all.")


def _notes(facts: dict[str, float], clock: Clock, images: int) -> list[str]:
  return [
    f"{images} validation images, 48 base and 17 novel classes; settings were chosen on the "
    "tuning split.",
    f"CLIP names {facts['crop_top1']:.0%} of ground-truth crops of the tuning split rightly "
    f"({facts['crop_top1_novel']:.0%} of those of novel classes); the five proposals of an image "
    f"cover {facts['top5_recall_base']:.0%} of its annotated boxes.",
    "Seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in clock.seconds.items()) + ".",
  ]


def define_flags() -> None:
  flags.DEFINE_string("root", "runs/demo", "Folder for everything that is made.")
  flags.DEFINE_bool("ablation", False, "All rows of the component table.")
  flags.DEFINE_list("seeds", ["0"], "Seeds of the detector, e.g. 0,1,2.")


if __name__ == "__main__":
  commands.run(main, define_flags)
