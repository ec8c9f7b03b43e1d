"""OV-COCO, RKD: region-based distillation from CLIP, 1x, from base.

  python -m rkd_jax.main --config=configs/coco/rkd.py --workdir=runs/coco/rkd

Arguments, data and cost as in base.py; the records hold five regions per image and their CLIP
embeddings.  Published (novel / base / all AP50): 21.6 / 54.4 / 45.8.
"""

from configs import common
from configs.coco import base


def get_config(argument: str | None = None):
  args = common.arguments(argument, root="runs/coco", seed=0)
  c = base.get_config(argument)
  c.name = "coco RKD"
  base.start_from(c, args.root, "base")
  base.add_rkd(c)
  return c
