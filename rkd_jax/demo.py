"""The whole method on the embedded dataset: from nothing to a report, in one command.

  python -m rkd_jax.demo --root=runs/demo
  python -m rkd_jax.demo --root=runs/demo --ablation --seeds=0,1,2
  python -m rkd_jax.demo --root=runs/demo --pseudo_labels

Scenes -> CLIP -> class embeddings -> offline step -> base -> RKD -> RKD + ILS +
weight transfer -> table, results.json, report.html.  Every step is skipped where
its result is there, and training resumes, so an interrupted run goes on.
"""

import contextlib
import json
import time
from collections.abc import Iterable

import jax
import ml_collections
import numpy as np
from absl import flags
from etils import epath

from rkd_jax import commands, retrieve
from rkd_jax.configs import demo as demo_config
from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.evaluation.evaluate import evaluate
from rkd_jax.frozen.clip import RegionEncoder, load_clip
from rkd_jax.frozen.detector import Detector
from rkd_jax.frozen.regions import crop_regions
from rkd_jax.inputs import examples
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.machine.workers import process_pool
from rkd_jax.pictures import components, figures
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import Source, decode_image, open_source
from rkd_jax.report.build import build
from rkd_jax.report.examination import open_run
from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.teachers.images import Options
from rkd_jax.teachers.pipeline import assess, precompute
from rkd_jax.teachers.settings import Settings, open_teachers
from rkd_jax.train.train import train
from rkd_jax.vocabulary import class_embeddings

METHODS = {
  "base": "base",
  "rkd": "RKD",
  "ils": "ILS",
  "rkd_ils": "RKD + ILS",
  "rkd_ils_weight_transfer": "RKD + ILS + weight transfer",
  "rkd_longer": "RKD, as many steps as the rows with ILS",
  "retrieved": "RKD + ILS + weight transfer, retrieved regions in image batches",
  "retrieved_boxes": "RKD + ILS + weight transfer, retrieved regions in box batches",
  "refined": "RKD + ILS + weight transfer, its own detections in image batches",
}
DEMO_STAGES = ("base", "rkd", "rkd_ils_weight_transfer")
ABLATION_STAGES = ("base", "rkd", "ils", "rkd_ils", "rkd_ils_weight_transfer", "rkd_longer")
PSEUDO_LABEL_STAGES = tuple(demo_config.FOLDERS)
DATA_SET, RKD_SPLITS = "shapes_ovd/scenes", ("train_boxes", "train_images")
SIMILARITY_IMAGES, REPORT_IMAGES = 128, 400
# As where CLIP chooses pseudo boxes.
CLIP_SCALE = Options().logit_scale


class Clock:
  """Says what is being done and remembers how long it took."""

  def __init__(self):
    self.begin = time.monotonic()
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str):
    start = time.monotonic()
    print(f"\n== {name} ({start - self.begin:.0f} s so far)", flush=True)
    yield
    self.seconds[name] = time.monotonic() - start


def stage_config(root: str, stage: str, seed: int) -> ml_collections.ConfigDict:
  return demo_config.get_config(f"{stage},seed={seed},root={root}").lock()


def run_stage(root: str, stage: str, seed: int) -> dict:
  """Trains and evaluates one stage, or reads what an earlier run left."""
  config = stage_config(root, stage, seed)
  workdir = demo_config.workdir(root, stage, seed)
  file = epath.Path(workdir) / "evaluation.json"
  if latest_step(workdir) != config.num_steps:
    make_pseudo_labels(root, stage, seed)
    file.unlink(missing_ok=True)
    train(config, workdir)
  return json.loads(file.read_text()) if file.exists() else evaluate(config, workdir)


def make_pseudo_labels(root: str, stage: str, seed: int) -> None:
  """The folder of pseudo boxes that a stage reads, if it has one of its own and it is not there."""
  if stage not in demo_config.FOLDERS:
    return
  folder = demo_config.folder(root, stage, seed)
  if (epath.Path(folder) / retrieve.SUMMARY).exists():
    return
  arguments = [
    f"--data_dir={root}/data",
    f"--dataset={DATA_SET}",
    f"--splits={','.join(RKD_SPLITS)}",
    f"--teachers={root}/teachers",
    f"--class_embeddings={root}/class_embeddings.npz",
    f"--softmax={CLIP_SCALE}",
    "--keep",
    f"--output={folder}",
  ]
  if stage == "refined":
    arguments.append(f"--detector={demo_config.workdir(root, 'rkd_ils_weight_transfer', seed)}")
  retrieve.main(arguments)


def prepare(root: str, clock: Clock) -> dict[str, float]:
  """Data, CLIP and the offline step; returns what is known about CLIP and proposals."""
  data_dir = f"{root}/data"
  with clock("scenes"):
    builder.prepare(shapes_ovd.ShapesOvd(data_dir=data_dir))
  with clock("CLIP on captioned scenes"):
    quality = run_stage(root, "clip", 0)
    print("CLIP on ground-truth crops of the tuning split:", quality)
  with clock("offline step: proposals, region embeddings, pseudo boxes"):
    settings = Settings(
      Options(), data_dir=data_dir, dataset=DATA_SET, clip=f"{root}/clip", batch_size=320
    )
    with process_pool() as pool:
      for split in RKD_SPLITS:
        teachers = open_teachers(settings, split)
        names, rows = teachers.source.class_names, teachers.class_embeddings
        about = teachers.embedding_dim, teachers.metadata
        writer = TeacherWriter(f"{root}/teachers", split, *about, class_names=names)
        precompute(*teachers[:4], writer, settings.options, pool)
    file, template = f"{root}/class_embeddings.npz", class_embeddings.TEMPLATE
    class_embeddings.save(file, names, template, rows, clip="clip")
    results = TeacherReader(f"{root}/teachers", "train_boxes")
    recall = assess(open_source(data_dir, DATA_SET, "train_boxes"), results)["box_recall"]
    print(f"The top-5 proposals cover {recall:.1%} of the annotated (base) boxes.")
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
    embeddings[METHODS[stage]] = detector.embed_regions(batch, boxes)[shown]
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
    content[stage] = {m: _over_seeds(own) if ablation else own[0] for m, own in values.items()}
  file = epath.Path(root) / ("ablation.json" if ablation else "results.json")
  file.write_text(json.dumps(content, indent=2) + "\n")
  return [
    components.Row(METHODS[s], runs, control=s == "rkd_longer") for s, runs in results.items()
  ]


def _over_seeds(values: list[float]) -> dict:
  return {
    "seeds": values,
    "mean": float(np.mean(values)),
    "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    "median": float(np.median(values)),
  }


def main(given: flags.FlagValues) -> None:
  root, seeds = given.root, [int(seed) for seed in given.seeds]
  stages = ABLATION_STAGES if given.ablation else DEMO_STAGES
  stages += PSEUDO_LABEL_STAGES if given.pseudo_labels else ()
  jax.config.update("jax_compilation_cache_dir", f"{root}/jax_cache")
  clock = Clock()
  facts = prepare(root, clock)
  results: dict[str, list[dict]] = {stage: [] for stage in stages}
  for seed in seeds:
    for stage in stages:
      with clock(f"{METHODS[stage]}, seed {seed}"):
        results[stage].append(run_stage(root, stage, seed))
        print({m: round(results[stage][-1][m], 1) for m in components.METRICS})
  with clock("report"):
    rows = write_results(root, results, given.ablation)
    source = open_source(f"{root}/data", DATA_SET, "validation")
    file = f"{root}/{'ablation' if given.ablation else 'report'}.html"
    folders = {METHODS[stage]: demo_config.workdir(root, stage, seeds[0]) for stage in stages}
    build(
      [open_run(folder, name) for name, folder in folders.items()],
      file,
      "rkd_jax on shapes_ovd",
      REPORT_IMAGES,
      before=[components.component_section(rows, _notes(facts, clock, len(source)))],
      after=[
        components.similarity_section(similarity_matrices(root, seeds[0], source), source.novel)
      ],
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
  flags.DEFINE_bool("pseudo_labels", False, "Rows with retrieved and refined pseudo boxes, too.")
  flags.DEFINE_list("seeds", ["0"], "Seeds of the detector, e.g. 0,1,2.")


if __name__ == "__main__":
  commands.run(main, define_flags)
