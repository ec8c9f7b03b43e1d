"""OV-COCO, base: R50-C4 trained with boxes of the 48 base classes, 1x (90k steps of 16 images).

  python -m rkd_jax.main --config=configs/coco/base.py --workdir=runs/coco/base

Arguments (`base.py:root=DIR,seed=1`): root, under which the records (root/data, built by
`python -m rkd_jax.data.coco_ovd.coco_ovd --data_dir=root/data --coco=FOLDER`), the class embeddings
(root/class_embeddings.npz, 512 wide, CLIP ViT-B/32) and the other rows lie; seed.  Rows with RKD
or ILS read what frozen teachers say of the images from root/teachers, made once by

  python -m rkd_jax.precompute --data_dir=root/data --dataset=coco_ovd/plain --splits=train \\
    --proposals=mvit --checkpoint=MDef_DETR_r101_epoch20.pth --vocabulary=vocab.json \\
    --merges=merges.txt --clip=ViT-B-32.pt --pseudo_box_threshold=0.95 --output=root/teachers

The run starts from `root/imagenet`, the ImageNet R-50 of MSRA made by `rkd_jax.convert`.

Published (novel / base / all AP50 on COCO val2017): 1.7 / 53.2 / 39.6.  The original took
8 hours on 8 A100 (16 images a step, 6.3 images/s each); not timed here.
"""

from rkd_jax.configs import common

NEW_HEADS = ("params/rpn/.*", "params/box_predictor/.*", "params/classifier/.*")


def get_config(argument: str | None = None, start: str = "imagenet"):
  """`start` is the run below root whose parameters this one starts from."""
  args = common.arguments(argument, root="runs/coco", seed=0)
  c = common.detector()
  c.name = "coco base"
  c.seed = args.seed
  c.compilation_cache = f"{args.root}/jax_cache"
  c.class_embeddings = f"{args.root}/class_embeddings.npz"
  c.frozen += ("backbone/(stem|res2)/.*",)
  c.init.checkpoint = f"{args.root}/{start}"
  c.init.allow_missing = NEW_HEADS if start == "imagenet" else ()
  c.data.dir = f"{args.root}/data"
  c.data.name = "coco_ovd/plain"
  c.data.teachers = f"{args.root}/teachers"
  c.data.box.records = "boxes"
  return c


def add_rkd(c):
  """L_1 and L_irm on the five regions of each image (common.loss has the published weights)."""
  c.data.box.max_regions = c.data.image.max_regions = 5


def add_ils(c):
  """Image steps of 64 images at 400 pixels, as many as box steps.

  The original's data sets are mixed 1:4 with 2 and 8 images a GPU: as many batches of each.
  """
  c.data.schedule = ("box", "image")
  c.data.image.records = "pseudo_boxes"
  c.data.image.max_labels = 32
