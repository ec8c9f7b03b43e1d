"""OV-LVIS, RKD + ILS + weight transfer, 1x, from RKD.

  python -m rkd_jax.main --config=configs/lvis/rkd_ils_weight_transfer.py \\
    --workdir=runs/lvis/rkd_ils_weight_transfer

Arguments, data and cost as in base.py.  Published (mask APr / APc / APf / AP):
17.1 / 21.4 / 26.7 / 22.8.
"""

from rkd_jax.configs import common
from rkd_jax.configs.lvis import base


def get_config(argument: str | None = None):
  c = base.get_config(argument, start="rkd")
  c.name = "lvis RKD + ILS + weight transfer"
  base.add_rkd(c)
  base.add_ils(c)
  common.add_weight_transfer(c, hidden=(512, 1024))
  return c
