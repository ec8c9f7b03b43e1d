"""OV-COCO, RKD + ILS without weight transfer, 1x, from base.

  python -m rkd_jax.main --config=configs/coco/rkd_ils.py --workdir=runs/coco/rkd_ils

Arguments, data and cost as in base.py.  Published (novel / base / all AP50): 35.3 / 52.9 / 48.3.
"""

from rkd_jax.configs.coco import base


def get_config(argument: str | None = None):
  c = base.get_config(argument, start="base")
  c.name = "coco RKD + ILS"
  base.add_rkd(c)
  base.add_ils(c)
  return c
