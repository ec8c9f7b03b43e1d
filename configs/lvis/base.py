"""OV-LVIS, base: Mask R-CNN R50-FPN without boxes of rare classes, 1x (90k steps of 16 images).

  python -m rkd_jax.main --config=configs/lvis/base.py --workdir=runs/lvis/base

Arguments (`base.py:root=DIR,seed=1`): root, under which the records (root/data), the class
embeddings (root/class_embeddings.npz, 512 wide, CLIP ViT-B/32) and the other rows lie; seed.
`python -m rkd_jax.data.lvis_ovd.lvis_ovd --data_dir=root/data --lvis=FOLDER --coco=FOLDER` builds
the records, which also say how many training images each class has; rows with ILS read
`data.imagenet_lvis` as well, in the same folder.  What frozen teachers say of the images is in
root/teachers (of lvis_ovd) and root/imagenet_teachers, made once by `rkd_jax.precompute`, with
--dataset=lvis_ovd/plain and imagenet_lvis/plain.  The run starts from `root/imagenet`, the
ImageNet R-50 of MSRA made by `rkd_jax.convert`.

Published (mask APr / APc / APf / AP on LVIS v1 val): 12.2 / 19.4 / 26.4 / 20.9.  The original took
4.5 hours on 8 A100 (16 images a step, 11 images/s each); not timed here.
"""

from rkd_jax.configs import common

NEW_PARTS = ("params/(fpn|rpn|box_head|box_predictor|classifier|mask_head)/.*",)


def get_config(argument: str | None = None, start: str = "imagenet"):
  """`start` is the run below root whose parameters this one starts from."""
  args = common.arguments(argument, root="runs/lvis", seed=0)
  c = common.detector()
  c.name = "lvis base"
  c.seed = args.seed
  c.compilation_cache = f"{args.root}/jax_cache"
  c.class_embeddings = f"{args.root}/class_embeddings.npz"
  c.frozen += ("backbone/(stem|res2)/.*",)
  c.init.checkpoint = f"{args.root}/{start}"
  c.init.allow_missing = NEW_PARTS if start == "imagenet" else ()

  m = c.model
  m.padding.multiple = 32
  m.backbone.stage_blocks = (3, 4, 6, 3)
  m.fpn.channels = 256
  m.rpn.channels = 256
  m.rpn.anchor_sizes = ((32,), (64,), (128,), (256,), (512,))
  m.rpn.train.update(pre_nms=2_000, post_nms=1_000)
  m.rpn.test.update(pre_nms=1_000, post_nms=1_000)
  m.roi.resolution = 7
  m.box_head.update(kind="fc", layers=2, width=1024)
  m.mask_head.layers = 4
  m.classifier.bias = -4.6
  m.test.update(score_threshold=1e-4, detections=300, candidates=4_000)
  c.loss.federated_classes = 50
  c.evaluation.protocol = "lvis"

  c.data.dir = f"{args.root}/data"
  c.data.name = "lvis_ovd/plain"
  c.data.teachers = f"{args.root}/teachers"
  c.data.image.teachers = f"{args.root}/imagenet_teachers"
  c.data.box.short_sides = (640, 672, 704, 736, 768, 800)
  c.data.box.update(records="boxes", repeat_threshold=0.001)
  c.data.box.max_boxes = 300
  c.data.box.max_vertices = 512
  return c


def add_rkd(c):
  """L_1 and L_irm on the five regions of each image, with the published weights for LVIS."""
  c.data.box.max_regions = c.data.image.max_regions = 5
  c.loss.rkd.weight, c.loss.irm.weight = 0.25, 0.13


def add_ils(c):
  """Image steps of 64 ImageNet images at 400 pixels, one label each.

  The original draws images 1:4 in batches of 2 and 8 per GPU: as many image steps as box steps.
  """
  c.data.schedule = ("box", "image")
  c.data.image.name = "imagenet_lvis/plain"
  # The original's sampler over both data sets, which keeps the images without boxes.
  c.data.box.update(records="", repeat_form="fractional")
  c.data.image.records = "pseudo_boxes"
  c.data.image.canvas = (416, 672)  # 400 pixels up to the next multiple of 32, see padding.multiple
  c.data.image.max_labels = 1
