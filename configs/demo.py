"""Every stage of the method on the embedded dataset, on a laptop's CPU.

  python -m rkd_jax.demo                                        the whole chain (make demo)
  python -m rkd_jax.main --config=configs/demo.py:rkd --workdir=runs/demo/rkd/seed0

The argument is `stage,seed=0,root=runs/demo`; stages read what earlier ones wrote
below the root, in the order clip, base, rkd, then any of the others:

  clip                     both CLIP towers on captioned scenes
  base                     boxes of base classes only; the backbone starts from CLIP's tower
  rkd                      + region-based distillation, from base
  rkd_contrastive          rkd with InfoNCE and relations in place of L1 and IRM, from base
  rkd_both                 rkd with all four, from base
  rkd_teacher_boxes        rkd whose teacher boxes are objects to the RPN, from base
  rkd_longer               rkd trained on for as many steps as the next rows (control)
  ils                      image-level supervision, from base
  rkd_ils                  both, from rkd
  rkd_ils_weight_transfer  + weight transfer, from rkd

As rkd_ils_weight_transfer, which is their control, with other pseudo boxes:

  retrieved                the regions most like each novel name, too, in image batches
  retrieved_boxes          these in box batches instead, as foreground of the classifier alone
  refined                  what rkd_ils_weight_transfer itself finds in image batches, too

The strict setting, in which nothing of the novel names is known in training, has a CLIP of its own,
as clip knows no concepts, and all that is made with it below ROOT/strict:

  strict_clip              clip on captions that name 400 concepts, too, for twice as long
  strict_base, strict_rkd  base and rkd with it
  strict_control           rkd_ils_weight_transfer with it: labels of the 80 names in image batches
  strict                   the same with labels of the 400 concepts instead

`FOLDERS` says where other pseudo boxes are; `rkd-jax retrieve` makes them, for the rows of
`rkd-jax recipe demo` by itself (docs/pseudo_labels.md).

Hardware: 2 CPU cores, 6 GB, minutes.  docs/demo.md has the measured table.
"""

from rkd_jax.configs import common

# Where stages have pseudo boxes that `rkd_jax.retrieve` makes.
FOLDERS = {
  "retrieved": "{root}/retrieved",
  "retrieved_boxes": "{root}/retrieved",
  "refined": "{root}/refined/seed{seed}",
}
# As long as rkd, which is their control.
RKD_VARIANTS = ("rkd_contrastive", "rkd_both", "rkd_teacher_boxes")
# What the stages of the strict setting are, but for their CLIP and image batches.
STRICT = {
  "strict_clip": "clip",
  "strict_base": "base",
  "strict_rkd": "rkd",
  "strict_control": "rkd_ils_weight_transfer",
  "strict": "rkd_ils_weight_transfer",
}
STAGES = (
  *("clip", "base", "rkd", "rkd_longer", "ils", "rkd_ils", "rkd_ils_weight_transfer"),
  *RKD_VARIANTS,
  *FOLDERS,
  *STRICT,
)
INITIAL_STAGE = {
  "rkd": "base",
  **dict.fromkeys(RKD_VARIANTS, "base"),
  "ils": "base",
  "rkd_longer": "rkd",
  "rkd_ils": "rkd",
  "rkd_ils_weight_transfer": "rkd",
  **dict.fromkeys(FOLDERS, "rkd"),
  "strict_rkd": "strict_base",
  "strict_control": "strict_rkd",
  "strict": "strict_rkd",
}
EMBEDDING_DIM = 64
CLIP_WIDTH = 32


def workdir(root: str, stage: str, seed: int) -> str:
  """Where a stage of a run lives; CLIP is trained once and shared by all seeds."""
  if plain(stage) == "clip":
    return f"{of_clip(root, stage)}/clip"
  return f"{root}/{stage}/seed{seed}"


def plain(stage: str) -> str:
  """What a stage of the strict setting is; other stages are themselves."""
  return STRICT.get(stage, stage)


def of_clip(root: str, stage: str) -> str:
  """The folder of a stage's CLIP and of what is made with it."""
  return f"{root}/strict" if stage in STRICT else root


def folder(root: str, stage: str, seed: int) -> str:
  """The folder of pseudo boxes that a stage of `FOLDERS` reads."""
  return FOLDERS[stage].format(root=root, seed=seed)


def get_config(argument: str | None = None):
  args = common.arguments(argument, stage="base", seed=0, root="runs/demo")
  if args.stage not in STAGES:
    raise ValueError(f"stage is {args.stage!r}; expected one of {', '.join(STAGES)}.")
  return clip(args) if plain(args.stage) == "clip" else detector(args)


def clip(args):
  """A small CLIP: three-stage ModifiedResNet and a two-layer text transformer."""
  c = common.clip()
  c.data.threads = 1
  c.name = "clip"
  c.num_steps = 1600
  c.compilation_cache = f"{args.root}/jax_cache"
  c.checkpoint.every = 500
  c.clip.embed_dim = EMBEDDING_DIM
  c.clip.image_resolution = 32
  c.clip.vision_layers = (1, 1, 1)
  c.clip.vision_width = CLIP_WIDTH
  c.clip.pooling = "average"
  c.clip.context_length = 24
  c.clip.transformer_width = 64
  c.clip.transformer_heads = 4
  c.clip.transformer_layers = 2
  c.clip.initial_logit_scale = 20.0
  # With 6e-3 it is a matter of rounding which shapes stay confused: 73 to 87 % of crops right.
  c.optimizer = common.adamw(learning_rate=3e-3, warmup_steps=100)
  c.data.dir = f"{args.root}/data"
  c.data.name = "shapes_ovd/scenes"
  c.data.caption.split = "clip"
  c.data.caption.batch_size = 64
  c.data.caption.canvas = (32, 32)
  c.data.caption.flip = False
  c.data.caption.crop = 0.0
  c.data.eval.split = "tune"
  if args.stage == "strict_clip":
    c.num_steps *= 2
    c.data.name = "shapes_ovd/concepts"
  return c


def detector(args):
  stage, own = plain(args.stage), of_clip(args.root, args.stage)
  c = common.detector()
  c.name = args.stage
  c.seed = args.seed
  c.compilation_cache = f"{args.root}/jax_cache"
  c.class_embeddings = f"{own}/class_embeddings.npz"
  c.checkpoint.every = 300
  c.num_steps = 500 if stage in ("rkd", *RKD_VARIANTS) else 450
  c.optimizer = common.adamw(
    learning_rate=2e-3 if stage in ("base", "rkd", *RKD_VARIANTS) else 1.5e-3, warmup_steps=50
  )
  # As the originals start from an ImageNet ResNet whose norms, stem and res2 stay frozen, the
  # demo starts from the first stages of its CLIP's image tower.
  c.frozen = (r"backbone/.*bn\d?/.*", r"backbone/conv\d/.*", r"backbone/layer1_.*")

  m = c.model
  m.pixel_mean, m.pixel_std = common.CLIP_PIXEL_MEAN, common.CLIP_PIXEL_STD
  m.backbone.update(kind="clip_resnet", stage_blocks=(1, 1), width=CLIP_WIDTH)
  m.rpn.channels = 64
  m.rpn.anchor_sizes = ((18.0, 28.0, 42.0, 60.0),)
  m.rpn.anchor_ratios = (0.7, 1.0, 1.4)
  m.rpn.train = dict(pre_nms=200, post_nms=64)
  m.rpn.test = dict(pre_nms=300, post_nms=80)
  m.roi = dict(resolution=4, batch_size_per_image=32, positive_fraction=0.25, iou_threshold=0.5)
  m.box_head = dict(kind="fc", layers=2, width=512)
  m.classifier.embedding_dim = EMBEDDING_DIM
  # With these, CLIP's own embeddings of tuning-split crops are calibrated (least BCE).
  m.classifier.temperature, m.classifier.bias = 20.0, -17.5
  m.test.candidates = 400
  # Chosen on the tuning split.
  m.test.fusion.update(clip=f"{own}/clip", base=0.2, novel=0.2, temperature=15.0)
  c.loss.rpn.batch_size_per_image = 64

  d = c.data
  d.dir, d.name, d.cache = f"{args.root}/data", "shapes_ovd/scenes", True
  d.teachers = f"{own}/teachers"
  d.threads = 1  # more fight over Python's lock on two cores
  size = dict(canvas=(128, 128), short_sides=(128,), max_side=128)
  d.box.update(split="train_boxes", batch_size=8, max_boxes=8, **size)
  d.image.update(split="train_images", batch_size=16, max_labels=4, **size)
  d.eval.update(split="validation", batch_size=16, **size)

  if args.stage in INITIAL_STAGE:
    c.init.checkpoint = workdir(args.root, INITIAL_STAGE[args.stage], args.seed)
  else:
    c.init.backbone = f"{own}/clip"
  parts = "rkd_ils_weight_transfer" if stage in FOLDERS else stage
  if "rkd" in parts:
    d.box.max_regions = d.image.max_regions = 5
    c.loss.rkd.weight = 0.05
    c.loss.irm.weight = 0.01
  if stage in ("rkd_contrastive", "rkd_both"):
    _contrast(c.loss, alone=stage == "rkd_contrastive")
  if stage == "rkd_teacher_boxes":
    # What an annotated box covers by half is that object, found less exactly.
    c.loss.rpn.teacher_boxes.below = 0.5
  if "ils" in parts:
    d.schedule = ("box", "image")
    c.loss.ils.weight = 6.0
  if "weight_transfer" in parts:
    common.add_weight_transfer(c, hidden=(64, 128))
  if stage == "retrieved_boxes":
    d.box.update(teachers=folder(args.root, stage, args.seed), pseudo_labels=4)
  elif stage in FOLDERS:
    d.image.update(teachers=folder(args.root, stage, args.seed), max_labels=8)
  if args.stage == "strict":
    d.image.update(
      name="shapes_ovd/concepts",
      teachers=f"{own}/concept_teachers",
      class_embeddings=f"{own}/concepts.npz",
    )
  return c


def _contrast(loss, alone: bool) -> None:
  """InfoNCE and relations with the weights of HD-OVD's code in place of L1 and IRM, or half beside.

  A region's embedding, of length 1, is drawn by L1 with a force of at most 0.05 * 100 / sqrt(64) =
  0.6, and by InfoNCE with one of 0.1 * 20 = 2 times the distance from its own teacher embedding to
  the mean that the softmax takes of all, which vanishes once the own one is found.
  """
  share = 1.0 if alone else 0.5
  loss.contrastive.weight, loss.relations.weight = share * 0.1, share * 1.0
  if alone:
    loss.rkd.weight = loss.irm.weight = 0.0
  # Twelve batches: half a dozen regions of each of the 80 classes.  The classifier calls an object
  # by a class from the cosine 17.5 / 20 on, so that what is closer than 0.9 is the same to it.
  loss.contrastive.queue, loss.contrastive.duplicates = 480, 0.9
