"""OV-COCO, RKD: region-based distillation from CLIP, 1x, from base.

  python -m rkd_jax.main --config=configs/coco/rkd.py --workdir=runs/coco/rkd

Arguments, data and cost as in base.py; the teachers' results hold five regions per image and
their CLIP embeddings.  Published (novel / base / all AP50): 21.6 / 54.4 / 45.8.
"""

from rkd_jax.configs.coco import base


def get_config(argument: str | None = None):
  c = base.get_config(argument, start="base")
  c.name = "coco RKD"
  base.add_rkd(c)
  return c
