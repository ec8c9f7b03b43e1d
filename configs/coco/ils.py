"""OV-COCO, ILS: image-level supervision from pseudo boxes, 1x, from base.

  python -m rkd_jax.main --config=configs/coco/ils.py --workdir=runs/coco/ils

Arguments, data and cost as in base.py; the teachers' results hold a pseudo box for each image
label.  Published (novel / base / all AP50): 34.2 / 52.0 / 47.4.
"""

from rkd_jax.configs.coco import base


def get_config(argument: str | None = None):
  c = base.get_config(argument, start="base")
  c.name = "coco ILS"
  base.add_ils(c)
  return c
