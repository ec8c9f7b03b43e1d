"""OV-LVIS, the recommended row: RKD + ILS + weight transfer, retrieved regions and CLIP's scores.

  rkd-jax recipe lvis --rows=recommended
  python -m rkd_jax.main --config=configs/lvis/recommended.py --workdir=runs/lvis/recommended

As rkd_ils_weight_transfer.py, 1x, from RKD, with what helped on the embedded data set
(docs/beyond.md): box batches take the regions that `rkd-jax retrieve` left in root/retrieved as
foreground of the classifier, and scores are fused with those that CLIP ViT-B/32
(weights/ViT-B-32.pt) gives crops of the boxes.  Not trained on LVIS: there is no number of it.
"""

from rkd_jax.configs import common
from rkd_jax.configs.lvis import rkd_ils_weight_transfer


def get_config(argument: str | None = None):
  c = rkd_ils_weight_transfer.get_config(argument)
  c.name = "lvis recommended"
  return common.add_recommended(c)
