"""Settings that all configs share; a config file starts from these and changes them.

Every value is listed here once, with its default, so that a locked config knows
all of its keys.  `None` for a number or tuple means "off".
"""

import ml_collections
from ml_collections import config_dict

# What CLIP's image towers were trained on, RGB in [0, 255]; for kind="clip_resnet".
CLIP_PIXEL_MEAN = (122.771, 116.746, 104.094)
CLIP_PIXEL_STD = (68.500, 66.632, 70.323)


def detector() -> ml_collections.ConfigDict:
  """A detector trained as published (SGD, 1x), its sizes left to the config."""
  c = ml_collections.ConfigDict()
  c.task = "detector"
  c.name = ""  # shown in progress bars and reports
  c.seed = 0
  c.num_steps = 90_000
  c.gradient_accumulation_steps = 1  # parts that a batch is taken in, for one update
  c.log_every = 20
  c.profile_steps = config_dict.placeholder(tuple)  # (100, 103): a trace of steps 100 to 102
  c.skip_bad_images = False
  c.on_nonfinite = "stop"  # or "skip(N)": up to N steps in a row whose loss or update is NaN or inf
  c.compilation_cache = ""
  c.class_embeddings = ""  # .npz or .npy, one row per class of the data set
  # .json [{"name":, "image_count":}, ..] of all classes, for federated_classes; "" asks the records
  c.image_counts = ""
  # Regular expressions on parameter paths.  Weight decay must not reach frozen norms either.
  c.frozen = (r".*norm/(scale|bias|mean|var)",)
  c.hosts = hosts()
  # best: a metric of evaluation, whose best checkpoint is kept beside the last ones.  verify: what
  # is read is compared with the digests that were saved.
  c.checkpoint = ml_collections.ConfigDict(dict(every=1000, keep=2, best="", verify=True))
  # checkpoint: an earlier run.  backbone: a CLIP run whose ResNet tower the backbone starts from.
  c.init = ml_collections.ConfigDict(dict(checkpoint="", backbone="", allow_missing=()))
  c.evaluation = evaluation()
  c.model = model()
  c.loss = loss()
  c.optimizer = sgd()
  c.data = detector_data()
  return c


def hosts() -> ml_collections.ConfigDict:
  """Seconds that all processes of a run have to start, and that one may give no sign of life."""
  return ml_collections.ConfigDict(dict(start_seconds=300, timeout_seconds=100))


def evaluation() -> ml_collections.ConfigDict:
  """How a detector is measured, and when.

  protocol: coco, lvis or open_images; engine: hotcoco, or pycocotools for coco.  every: steps
  between evaluations during training, each of which saves a checkpoint; 0 is none.

  retention: records that show whether old classes survive, measured before the first step and at
  every evaluation; without a name there are none.  dir and class_embeddings are by default the
  run's own.  When metric has fallen by more than the part `share` of it, this is said.
  """
  retention = dict(
    dir="", name="", split="validation", class_embeddings="", protocol="coco", metric="AP50_all"
  )
  return ml_collections.ConfigDict(
    dict(protocol="coco", engine="hotcoco", every=0, retention=dict(**retention, share=0.1))
  )


def model() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    dict(
      dtype="float32",
      precision="default",  # of float32 products; "highest" is float32 on TPUs and GPUs, too
      remat=False,  # residual blocks are computed again for the gradient, rather than held
      pixel_mean=(123.675, 116.280, 103.530),  # RGB
      pixel_std=(1.0, 1.0, 1.0),
      # Where images end for the network: to `multiple` of pixels beyond each image, or beyond the
      # largest of the batch (to="batch", the reference; then images of a batch affect each other).
      padding=dict(multiple=1, to="image"),
      # kind: resnet (caffe style), or clip_resnet (CLIP's own: stem width, frozen norms and
      # expansion 4 are part of it).
      backbone=dict(
        kind="resnet", stage_blocks=(3, 4, 6), width=64, stem_width=64, norm="frozen", expansion=4
      ),
      fpn=dict(channels=0),  # 0: the last map alone (C4)
      rpn=dict(
        channels=1024,
        anchor_sizes=((32, 64, 128, 256, 512),),
        anchor_ratios=(0.5, 1.0, 2.0),
        nms_threshold=0.7,
        train=dict(pre_nms=12_000, post_nms=2_000),
        test=dict(pre_nms=6_000, post_nms=1_000),
      ),
      roi=dict(resolution=14, batch_size_per_image=512, positive_fraction=0.25, iou_threshold=0.5),
      # kind: res5 (the last ResNet stage and a mean) or fc; layers: blocks or fc layers.
      box_head=dict(kind="res5", layers=3, width=1024),
      mask_head=dict(layers=0, channels=256, resolution=14),  # 0 layers: boxes only
      classifier=dict(
        embedding_dim=512,
        temperature=50.0,
        bias=config_dict.placeholder(float),
        weight_transfer=config_dict.placeholder(tuple),
      ),
      # candidates: (box, class) pairs that enter the final NMS.
      test=dict(
        score_threshold=0.05,
        nms_threshold=0.5,
        detections=100,
        candidates=2_000,
        fusion=fusion(),
      ),
    )
  )


def fusion() -> dict:
  """Scores at test time as the geometric mean s^(1 - a) p^a of the detector's s and others' p.

  kind: "" is off; "crops" has p from CLIP on crops of the boxes, "projection" from the distilled
  projection, for detectors with weight transfer.  base, novel: a for classes with and without boxes
  in training.  clip: a run's folder or a file of weights; crops: most of an image; temperature: of
  CLIP's softmax, 0 is its own; context: part of a box's sides by which a crop is wider.
  """
  return dict(kind="", base=0.35, novel=0.35, clip="", crops=32, temperature=0.0, context=0.12)


def add_weight_transfer(c, hidden: tuple[int, int]) -> None:
  """The distilled projection frozen and the classifier's computed from it, from an RKD run."""
  c.model.classifier.weight_transfer = hidden
  c.frozen += ("classifier/projection/.*",)
  c.init.allow_missing = ("params/classifier/transfer/.*",)


def add_recommended(c):
  """What helped on the embedded data set: retrieved regions in box batches, and fused scores.

  `data.teachers` is ROOT/teachers; the retrieved regions are in ROOT/retrieved beside it.
  """
  c.data.box.update(teachers=f"{c.data.teachers.rpartition('/')[0]}/retrieved", pseudo_labels=4)
  c.model.test.fusion.update(kind="crops", clip="weights/ViT-B-32.pt")
  return c


def loss() -> ml_collections.ConfigDict:
  """The published code's losses; METHOD notes on each switch are in rkd_jax/losses."""
  return ml_collections.ConfigDict(
    dict(
      classification="sigmoid",  # or softmax (paper)
      ignore_zero_classes=True,
      # Whether background is a negative of classes that only pseudo labels of box batches name.
      pseudo_background=False,
      # Pseudo labels of box batches weighed by the sum of their score and of the detector's, and
      # left out where the mean of both is below the threshold.
      pseudo_agreement=dict(on=False, threshold=0.0),
      # Classes that count per group of images (LVIS: 50); 0 is all of them.
      federated_classes=0,
      # teacher_boxes: regions whose IoU with every annotated box is below `below` (0 is none of
      # them, 1 all) are foreground, too, and boxes are regressed to them if `regression`.
      rpn=dict(
        batch_size_per_image=256,
        positive_fraction=0.5,
        low=0.3,
        high=0.7,
        teacher_boxes=dict(below=0.0, regression=True),
      ),
      # beta_1 L_1: weight * temperature; reduction mean (code) or sum (paper).
      rkd=dict(weight=0.15, temperature=100.0, reduction="mean", on_image_batches=True),
      # beta_2 L_irm: row_norm l1 (code) or l2 (paper); reduction sum (code) or mean (paper).
      irm=dict(weight=0.15, temperature=100.0, row_norm="l1", reduction="sum"),
      # InfoNCE of a region's own teacher embedding among those of its batch and of the last `queue`
      # regions before it.  temperature: factor of cosines.  duplicates: negatives whose cosine with
      # the region's own teacher embedding is above it do not count; 1 counts all.
      contrastive=dict(weight=0.0, temperature=20.0, queue=0, duplicates=0.999),
      # Kullback-Leibler divergence of the softmax of a region's cosines to others of its group.
      relations=dict(weight=0.0, temperature=5.0),
      # boxes: what a label of an image supervises: "pseudo" (its pseudo box), "image" (the whole
      # image), "largest_region" (of the teacher; data.image.max_regions), "largest_proposal" (of
      # the detector) or "best_proposal" (of the detector, with the highest logit for the label).
      # The labels are those of pseudo boxes: there is none of a label that has no pseudo box.
      ils=dict(weight=0.1, boxes="pseudo"),
      # What one of the authors' GPUs held; losses are averaged over groups.
      images_per_group=dict(box=2, image=8),
    )
  )


def sgd() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    dict(
      name="sgd",
      learning_rate=0.02,
      momentum=0.9,
      b2=0.999,
      weight_decay=1e-4,
      schedule="steps",
      boundaries=(60_000, 80_000),
      warmup_steps=1_000,
      warmup_factor=0.001,
      clip_norm=0.0,
    )
  )


def adamw(learning_rate: float, warmup_steps: int, weight_decay: float = 0.05):
  """For small networks trained from scratch: AdamW with warm-up and cosine."""
  c = sgd()
  c.name, c.schedule = "adamw", "cosine"
  c.learning_rate, c.weight_decay = learning_rate, weight_decay
  c.warmup_steps, c.boundaries = warmup_steps, ()
  c.clip_norm = 1.0
  return c


def detector_data() -> ml_collections.ConfigDict:
  """Which records form a batch, and their static shapes.

  `schedule` is the fixed interleaving of batch kinds, repeated.  max_regions=0
  leaves the distillation terms out.  A box or image canvas (short side, long side) that is no
  square makes batches of lying images and batches of standing ones, whose canvas is turned; on a
  square one all images mix.  `records` takes only records with 'boxes', 'labels' or
  'pseudo_boxes'.  Box batches show images of rare classes more often if repeat_threshold says so
  (LVIS: 0.001), in one of the forms of `rkd_jax.inputs.sampler`.

  `teachers` is the folder that `rkd_jax.precompute` wrote for the records (its --output); kinds
  that have regions or pseudo boxes read the results of their split from it, those of `box.teachers`
  or `image.teachers` where these are set.  An image without results is an error, or left out of
  the records with `skip_missing_results`.

  `image.dir` and `image.name` are another data set for the image batches; '' is that of all
  others.  Its classes must be the same, unless `image.class_embeddings` gives those of its own,
  which then are the columns of the classifier in image steps.
  """
  return ml_collections.ConfigDict(
    dict(
      dir="",
      name="",
      teachers="",
      skip_missing_results=False,
      schedule=("box",),
      threads=4,
      cache=False,  # keep decoded images in memory
      box=dict(
        teachers="",
        split="train",
        records="",
        repeat_threshold=0.0,
        repeat_form="stochastic",
        batch_size=16,
        canvas=(800, 1344),
        short_sides=(800,),
        max_side=1333,
        # Groups of neighbouring short sides; the images of a batch draw theirs from one group.
        scale_groups=1,
        flip=True,
        max_boxes=100,
        max_vertices=0,  # of an object's polygons, for a mask head; 0 leaves masks out
        # Pseudo boxes of an image, with a score above a bound, that classification learns from like
        # ground truth; of classes without annotations.
        pseudo_labels=0,
        pseudo_label_score=0.0,
        max_regions=0,
      ),
      image=dict(
        dir="",
        name="",
        teachers="",
        class_embeddings="",
        split="train",
        records="",
        batch_size=64,
        canvas=(400, 672),
        short_sides=(400,),
        max_side=667,
        flip=True,
        max_regions=0,
        max_labels=16,
      ),
      eval=dict(
        split="validation", batch_size=1, canvas=(1344, 1344), short_sides=(800,), max_side=1333
      ),
    )
  )


def clip() -> ml_collections.ConfigDict:
  """Contrastive training of a CLIP on captioned images."""
  c = ml_collections.ConfigDict()
  c.task = "clip"
  c.name = "clip"
  c.seed = 0
  c.num_steps = 10_000
  c.gradient_accumulation_steps = 1  # the contrastive loss needs whole batches
  c.log_every = 20
  c.profile_steps = config_dict.placeholder(tuple)
  c.skip_bad_images = False
  c.on_nonfinite = "stop"  # or "skip(N)": up to N steps in a row whose loss or update is NaN or inf
  c.compilation_cache = ""
  c.frozen = ()
  c.hosts = hosts()
  # best: a metric of evaluation, whose best checkpoint is kept beside the last ones.  verify: what
  # is read is compared with the digests that were saved.
  c.checkpoint = ml_collections.ConfigDict(dict(every=1000, keep=2, best="", verify=True))
  c.init = ml_collections.ConfigDict(dict(checkpoint="", allow_missing=()))
  # The fields of rkd_jax.models.clip.model.ClipConfig; the vocabulary comes from the tokenizer.
  c.clip = ml_collections.ConfigDict(
    dict(
      embed_dim=512,
      image_resolution=224,
      vision_layers=(3, 4, 6, 3),
      vision_width=64,
      pooling="attention",
      context_length=77,
      transformer_width=512,
      transformer_heads=8,
      transformer_layers=12,
      initial_logit_scale=1 / 0.07,
      dtype="float32",
    )
  )
  c.optimizer = adamw(learning_rate=5e-4, warmup_steps=2_000, weight_decay=0.2)
  c.data = ml_collections.ConfigDict(
    dict(
      dir="",
      name="",
      schedule=("caption",),
      threads=4,
      cache=True,
      caption=dict(split="train", batch_size=128, canvas=(224, 224), flip=True, crop=0.0),
      eval=dict(split="validation"),
    )
  )
  return c


def arguments(text: str | None, **defaults):
  """Parses a config's argument 'rkd,seed=1': a bare word sets the first default.

  Values take the type of their default.

  Raises:
    ValueError: an unknown name; the known ones are listed.
  """
  values = dict(defaults)
  for position, part in enumerate(filter(None, (text or "").split(","))):
    name, _, value = part.partition("=")
    if not value and position == 0:
      name, value = next(iter(defaults)), part
    if name not in values:
      raise ValueError(f"config argument {name!r} is unknown; known: {', '.join(defaults)}.")
    kind = type(defaults[name])
    values[name] = value in ("", "1", "true", "True") if kind is bool else kind(value)
  return ml_collections.ConfigDict(values)
