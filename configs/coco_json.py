"""Your own photographs: every stage of the method on a folder of images with a COCO-format JSON.

A project is a folder: ROOT/data (records, splits train and validation), ROOT/class_embeddings.npz,
ROOT/teachers (from `rkd-jax precompute`, for all stages but base), and a run's folder for each
stage.  Training evaluates itself, and keeps the best checkpoint (ROOT/base/checkpoints/best):

  rkd-jax train --config=coco_json:base,root=ROOT --workdir=ROOT/base
  rkd-jax train --config=coco_json:rkd,root=ROOT --workdir=ROOT/rkd
  rkd-jax eval --workdir=ROOT/rkd

Stages are base; then rkd, ils or rkd_ils, which start from ROOT/base, or rkd_ils_weight_transfer,
from ROOT/rkd.  A later stage has the network, image sizes and optimizer of the run before it.

What a run starts from (`init=PATH`) decides the network:

  nothing                       a small network from random weights: needs the images only
  R-50.pkl, a file              the published R50-C4, its trunk from an ImageNet ResNet-50
  RN50.pt, or a run of a CLIP   a detector on CLIP's own ResNet tower
  a run of a detector           the same network, trained on: also a published open-vocabulary
                                detector that `rkd-jax convert` wrote

Whether what such a detector knew survives is measured before the first step and at each evaluation,
where its own records are named:

  --config.evaluation.retention.dir=runs/coco/data --config.evaluation.retention.name=coco_ovd/plain
  --config.evaluation.retention.class_embeddings=runs/coco/class_embeddings.npz

What follows from the number N of training images (1,000 while the records are not built):

  images a step   small network: 2 below N = 200, 4 below 2,000, else 8; others: 4 below 1,000, else
                  16.  Image steps (ILS) take four times as many, of half the size
  steps           100 epochs from nothing, but at most 20,000 steps; else 12 epochs; at least 400
                  steps, and with ILS twice as many
  learning rate   AdamW with a cosine: 1e-3 for the small network, 3e-4 on CLIP's tower; from
                  ImageNet SGD, 0.02 for 16 images and less for fewer, stepped at 2/3 and 8/9; from
                  a detector a tenth of what it was trained with per image
  warm-up         a tenth of the steps, at most 1,000
  evaluation      each epoch, but 4 to 20 times in all; each one saves a checkpoint
  short sides     320 for the small network, 800 for others, those of the run that it starts from

Arguments (`coco_json:rkd,root=ROOT,epochs=50`): stage, root, init, epochs, steps (in place of
epochs), size (short side in pixels), seed, data_dir, class_embeddings, teachers, and embedding_dim
(that of the file of class embeddings, or 512).  All else is a flag: --config.data.box.max_boxes=300
for crowded images, --config.data.eval.split=train where there is no validation split.

Measured: 64 photographs of COCO (47 classes, 439 boxes), size=192, steps=1200 (37 epochs), trained
and evaluated on the same reach AP50 3.4, 13.6, 17.8 and 20.4 after 600, 750, 900 and 1,200 steps:
1.2 GB and some 8 minutes of CPU time (38 by the clock on 2 CPU cores with much else to do).  It
shows that the path works.  Random weights want many epochs; for accuracy, start from trained ones.
"""

import json
import os
from typing import Any

from rkd_jax.configs import common
from rkd_jax.files import storage
from rkd_jax.files.untrusted.archives import read_arrays

# Each stage, and the one that it starts from.
PARENTS = {
  "base": "",
  "rkd": "base",
  "ils": "base",
  "rkd_ils": "base",
  "rkd_ils_weight_transfer": "rkd",
}
STAGES = tuple(PARENTS)
DATA_SET = "coco_json/plain"
NEW_HEADS = ("params/rpn/.*", "params/box_predictor/.*", "params/classifier/.*")
_UNKNOWN_RECORDS = 1000


def get_config(argument: str | None = None):
  args = common.arguments(
    argument,
    stage="base",
    root="runs/coco_json",
    init="",
    epochs=0,
    steps=0,
    size=0,
    data_dir="",
    class_embeddings="",
    teachers="",
    embedding_dim=0,
    seed=0,
  )
  if args.stage not in STAGES:
    raise ValueError(f"stage is {args.stage!r}; expected one of {', '.join(STAGES)}.")
  before = f"{args.root}/{PARENTS[args.stage]}" if PARENTS[args.stage] else ""
  init = args.init or before
  of_run = _config_of(init)
  if init.endswith((".pkl", ".pth", ".npz")):
    start = "imagenet"
  elif init.endswith(".pt") or of_run.get("task") == "clip":
    start = "clip"
  else:
    start = "run" if args.init or of_run else "nothing"  # an own run will be what it is by default

  c = common.detector()
  c.name = "own data" if args.stage == "base" else f"own data, {args.stage.replace('_', ' ')}"
  c.seed = args.seed
  c.compilation_cache = f"{args.root}/jax_cache"
  c.class_embeddings = args.class_embeddings or f"{args.root}/class_embeddings.npz"
  c.data.dir, c.data.name = args.data_dir or f"{args.root}/data", DATA_SET
  c.data.teachers = args.teachers or f"{args.root}/teachers"
  count, small = _records(c.data.dir), start == "nothing"
  few, many = (2 if count < 200 else 4, 8) if small else (4, 16)
  c.data.box.batch_size = few if count < (2000 if small else 1000) else many
  c.data.threads, c.data.cache = 1 if small else 4, count <= 1000
  c.init["backbone" if start == "clip" else "checkpoint"] = init
  c.init.allow_missing = NEW_HEADS if start == "imagenet" else ()
  if small:
    _small(c)
  elif start == "clip":
    _on_tower(c, of_run.get("clip", {}))
  else:
    _published(c)
  _set_sizes(c, args.size or (320 if small else 800), square=small)
  c.model.classifier.embedding_dim = args.embedding_dim or _width(c.class_embeddings)
  if start == "run":
    _go_on(c, of_run, args.size, own=init == before)

  box = c.data.box
  if "rkd" in args.stage:
    box.max_regions = c.data.image.max_regions = 5
  if "ils" in args.stage:
    c.data.schedule = ("box", "image")
    c.data.image.update(records="pseudo_boxes", batch_size=4 * box.batch_size, max_labels=32)
  if "weight_transfer" in args.stage and c.model.classifier.weight_transfer is None:
    width = c.model.classifier.embedding_dim
    common.add_weight_transfer(c, hidden=(width, 2 * width))

  kinds = len(c.data.schedule)
  epoch = -(-count // box.batch_size) * kinds
  usual = max(12 * epoch if init else min(100 * epoch, 20_000), 400 * kinds)
  c.num_steps = args.steps or args.epochs * epoch or usual
  c.optimizer.warmup_steps = min(1000, c.num_steps // 10)
  if c.optimizer.schedule == "steps":
    c.optimizer.boundaries = (c.num_steps * 2 // 3, c.num_steps * 8 // 9)
  every = min(max(epoch, -(-c.num_steps // 20)), max(c.num_steps // 4, 1))
  c.evaluation.every = c.checkpoint.every = every
  c.checkpoint.best = "AP50_all"
  return c


def _small(c):
  """Some million weights; nothing is frozen."""
  c.frozen = ()
  c.optimizer = common.adamw(learning_rate=1e-3, warmup_steps=0)
  m = c.model
  m.pixel_std = (58.0, 57.0, 58.0)
  m.backbone.update(stage_blocks=(1, 2), width=32, stem_width=32, norm="group", expansion=2)
  m.rpn.channels = 128
  m.rpn.anchor_sizes = ((16.0, 32.0, 64.0, 128.0, 256.0),)
  m.rpn.train.update(pre_nms=600, post_nms=200)
  m.rpn.test.update(pre_nms=1000, post_nms=200)
  m.roi.update(resolution=7, batch_size_per_image=96)
  m.box_head.update(kind="fc", layers=2, width=256)
  m.classifier.bias = -4.6
  c.loss.rpn.batch_size_per_image = 128


def _published(c):
  """The R50-C4 of configs/coco, whose norms, stem and res2 stay as they are."""
  c.frozen = (*c.frozen, "backbone/(stem|res2)/.*")
  c.optimizer.learning_rate *= c.data.box.batch_size / 16


def _on_tower(c, clip: dict[str, Any]):
  """CLIP's ResNet tower without its last stage; statistics, stem and first stage stay as they are.

  The sizes are those of the run's config, or else of the published RN50.
  """
  c.optimizer = common.adamw(learning_rate=3e-4, warmup_steps=0)
  c.frozen = (r"backbone/.*bn\d?/.*", r"backbone/conv\d/.*", r"backbone/layer1_.*")
  m = c.model
  m.pixel_mean, m.pixel_std = common.CLIP_PIXEL_MEAN, common.CLIP_PIXEL_STD
  blocks, width = tuple(clip.get("vision_layers", (3, 4, 6, 3))), clip.get("vision_width", 64)
  m.backbone.update(kind="clip_resnet", stage_blocks=blocks[:-1], width=width)
  m.rpn.channels = 256
  m.roi.update(resolution=7)
  m.box_head.update(kind="fc", layers=2, width=1024)
  m.classifier.bias = -4.6


def _set_sizes(c, short: int, square: bool):
  """Box and evaluated images of a short side, image batches (ILS) of half of it.

  Photographs lie or stand: a square canvas mixes them in a batch, which few images need.
  """
  for kind, side in (("box", short), ("image", short // 2), ("eval", short)):
    long = side * 3 // 2 if square else side * 5 // 3
    canvas = (_up(long), _up(long)) if square or kind == "eval" else (_up(side), _up(long))
    c.data[kind].update(canvas=canvas, short_sides=(side,), max_side=long)


def _up(side: int) -> int:
  return -(-side // 32) * 32


def _go_on(c, of_run: dict[str, Any], short: int, own: bool):
  """The network, image sizes and optimizer of a run; of one that is not the project's own, images a
  step as elsewhere, and a tenth of its learning rate for each.
  """
  if of_run:
    box = of_run["data"]["box"]
    c.model.update(of_run["model"])
    c.optimizer.update(of_run["optimizer"])
    c.frozen = of_run["frozen"]
    if own:
      c.data.box.batch_size = box["batch_size"]
    c.optimizer.learning_rate *= c.data.box.batch_size / box["batch_size"]
    for kind in ("box", "image", "eval"):
      for key in {"canvas", "short_sides", "max_side", "max_vertices"} & {*c.data[kind]}:
        c.data[kind][key] = of_run["data"][kind][key]
    if short:
      _set_sizes(c, short, square=len({*box["canvas"]}) == 1)
  if not own:
    c.optimizer.learning_rate *= 0.1


def _records(data_dir: str) -> int:
  """The number of training images, as the builder wrote it."""
  found = storage.matching(storage.path(data_dir) / DATA_SET, "[0-9]*.*.*/dataset_info.json")
  if not found:
    return _UNKNOWN_RECORDS
  latest = max(found, key=lambda file: [int(number) for number in file.parent.name.split(".")])
  splits = {split["name"]: split for split in json.loads(latest.read_text())["splits"]}
  return sum(map(int, splits["train"]["shardLengths"])) if "train" in splits else _UNKNOWN_RECORDS


def _width(class_embeddings: str) -> int:
  """That of the rows in the file of class embeddings, or of CLIP ViT-B/32."""
  if storage.is_remote(class_embeddings) or not os.path.isfile(class_embeddings):
    return 512
  arrays = read_arrays(class_embeddings)
  return (arrays["embeddings"] if isinstance(arrays, dict) else arrays).shape[-1]


def _config_of(run: str) -> dict[str, Any]:
  """The config of a run's folder, or of .../checkpoints/STEP in it; {} where there is none."""
  folder = storage.path(run.partition("/checkpoints/")[0]) if run else None
  if folder is None or not (folder / "config.json").exists():
    return {}
  return _with_tuples(json.loads((folder / "config.json").read_text()))


def _with_tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _with_tuples(inner) for key, inner in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
