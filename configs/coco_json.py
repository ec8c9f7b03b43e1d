"""Your own photographs: a small detector on a folder of images with a COCO-format JSON.

Build the records once (checks every annotation and image), embed the class names, train,
evaluate, and look:

  python -m rkd_jax.data.coco_json.coco_json --data_dir=runs/coco_json/data \\
    --train_json=train.json --train_images=FOLDER \\
    --validation_json=val.json --validation_images=FOLDER [--novel='cat, dog']
  python -m rkd_jax.embed_classes --clip=CLIP_WORKDIR --annotations=train.json \\
    --output=runs/coco_json/class_embeddings.npz
  python -m rkd_jax.main --config=configs/coco_json.py --workdir=runs/coco_json/base
  python -m rkd_jax.main --config=configs/coco_json.py --workdir=runs/coco_json/base --mode=eval
  python -m rkd_jax.predict --config=configs/coco_json.py --checkpoint=runs/coco_json/base \\
    --images='FOLDER/*.jpg' --classes='person, red kite' --clip=CLIP_WORKDIR \\
    --output=runs/coco_json/pictures

The argument (`--config=configs/coco_json.py:steps=2000,size=256`) takes

  stage             base, or rkd, which starts from root/base and reads root/teachers
  root              folder of everything below (runs/coco_json)
  data_dir          where the records are (root/data)
  class_embeddings  .npz or .npy, a row per category (root/class_embeddings.npz)
  embedding_dim     width of the class embeddings (512, CLIP ViT-B/32)
  size              short side of the images in pixels; the long side is at most 1.5 times that
  steps, seed       length of training, random seed

and every other setting is a flag: --config.data.eval.split=train where there is no validation
split, --config.data.box.max_boxes=300 for crowded images.

RKD on top, once `rkd_jax.precompute --data_dir=runs/coco_json/data --dataset=coco_json/plain
--splits=train --output=runs/coco_json/teachers ...` has asked the teachers (by default its regions
need no model; --clip must be the CLIP of the class embeddings):

  python -m rkd_jax.main --config=configs/coco_json.py:rkd --workdir=runs/coco_json/rkd

The detector starts from random weights, so that it needs nothing but the images: good for a
first look and for small closed worlds, not for the accuracy of a pre-trained ResNet-50.
Six photographs of COCO (14 classes, 56 boxes; trained and evaluated on the same six) reach
AP50 82.7 in the 400 steps of the default: 7 minutes and 1.4 GB on 2 busy CPU cores.
"""

from rkd_jax.configs import common

STAGES = ("base", "rkd")


def get_config(argument: str | None = None):
  args = common.arguments(
    argument,
    stage="base",
    root="runs/coco_json",
    data_dir="",
    class_embeddings="",
    embedding_dim=512,
    size=320,
    steps=400,
    seed=0,
  )
  if args.stage not in STAGES:
    raise ValueError(f"stage is {args.stage!r}; expected one of {', '.join(STAGES)}.")
  c = common.detector()
  c.name = "coco_json" if args.stage == "base" else f"coco_json {args.stage}"
  c.seed = args.seed
  c.num_steps = args.steps
  c.compilation_cache = f"{args.root}/jax_cache"
  c.class_embeddings = args.class_embeddings or f"{args.root}/class_embeddings.npz"
  c.checkpoint.every = 200
  c.frozen = ()
  c.optimizer = common.adamw(learning_rate=1e-3, warmup_steps=50)

  m = c.model
  m.pixel_std = (58.0, 57.0, 58.0)
  m.backbone.update(stage_blocks=(1, 2), width=32, stem_width=32, norm="group", expansion=2)
  m.rpn.channels = 128
  m.rpn.anchor_sizes = ((16.0, 32.0, 64.0, 128.0, 256.0),)
  m.rpn.train.update(pre_nms=600, post_nms=200)
  m.rpn.test.update(pre_nms=1000, post_nms=200)
  m.roi.update(resolution=7, batch_size_per_image=96, positive_fraction=0.25, iou_threshold=0.5)
  m.box_head.update(kind="fc", layers=2, width=256)
  m.classifier.embedding_dim = args.embedding_dim
  m.classifier.bias = -4.6
  c.loss.rpn.batch_size_per_image = 128

  # Photographs lie or stand, so the canvas is a square of the long side.
  long_side = args.size * 3 // 2
  size = {"canvas": (long_side, long_side), "short_sides": (args.size,), "max_side": long_side}
  d = c.data
  d.dir, d.name = args.data_dir or f"{args.root}/data", "coco_json/plain"
  d.threads, d.cache = 1, True
  d.box.update(split="train", batch_size=2, max_boxes=100, **size)
  d.eval.update(split="validation", batch_size=1, **size)
  d.teachers = f"{args.root}/teachers"
  if args.stage == "rkd":
    c.init.checkpoint = f"{args.root}/base"
    d.box.max_regions = 5
  return c
