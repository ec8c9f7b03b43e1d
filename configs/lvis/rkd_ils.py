"""OV-LVIS, RKD + ILS without weight transfer, 1x, from base.

  python -m rkd_jax.main --config=configs/lvis/rkd_ils.py --workdir=runs/lvis/rkd_ils

Arguments, data and cost as in base.py.  Published (mask APr / APc / APf / AP):
17.3 / 20.9 / 25.5 / 22.1.
"""

from rkd_jax.configs.lvis import base


def get_config(argument: str | None = None):
  c = base.get_config(argument, start="base")
  c.name = "lvis RKD + ILS"
  base.add_rkd(c)
  base.add_ils(c)
  return c
