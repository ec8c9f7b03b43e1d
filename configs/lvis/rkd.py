"""OV-LVIS, RKD: region-based distillation from CLIP, 1x, from base.

  python -m rkd_jax.main --config=configs/lvis/rkd.py --workdir=runs/lvis/rkd

Arguments, data and cost as in base.py.  Published (mask APr / APc / APf / AP):
15.2 / 20.2 / 27.3 / 22.1.
"""

from rkd_jax.configs.lvis import base


def get_config(argument: str | None = None):
  c = base.get_config(argument, start="base")
  c.name = "lvis RKD"
  base.add_rkd(c)
  return c
