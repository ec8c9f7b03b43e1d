"""OV-COCO, RKD + ILS + weight transfer, 1x, from RKD.

  python -m rkd_jax.main --config=configs/coco/rkd_ils_weight_transfer.py \\
    --workdir=runs/coco/rkd_ils_weight_transfer

Arguments, data and cost as in base.py.  Published (novel / base / all AP50): 40.3 / 54.1 / 50.5.
"""

from rkd_jax.configs import common
from rkd_jax.configs.coco import base


def get_config(argument: str | None = None):
  c = base.get_config(argument, start="rkd")
  c.name = "coco RKD + ILS + weight transfer"
  base.add_rkd(c)
  base.add_ils(c)
  common.add_weight_transfer(c, hidden=(512, 1024))
  return c
