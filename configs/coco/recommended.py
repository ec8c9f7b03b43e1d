"""OV-COCO, the recommended row: RKD + ILS + weight transfer, retrieved regions and CLIP's scores.

  rkd-jax recipe coco --rows=recommended
  python -m rkd_jax.main --config=configs/coco/recommended.py --workdir=runs/coco/recommended

As rkd_ils_weight_transfer.py, 1x, from RKD, with what helped on the embedded data set
(docs/beyond.md): box batches take the regions that `rkd-jax retrieve` left in root/retrieved as
foreground of the classifier, and scores are fused with those that CLIP ViT-B/32
(weights/ViT-B-32.pt) gives crops of the boxes.  Not trained on COCO: there is no number of it.
"""

from rkd_jax.configs import common
from rkd_jax.configs.coco import rkd_ils_weight_transfer


def get_config(argument: str | None = None):
  c = rkd_ils_weight_transfer.get_config(argument)
  c.name = "coco recommended"
  return common.add_recommended(c)
