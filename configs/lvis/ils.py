"""OV-LVIS, ILS: image-level supervision from pseudo boxes on ImageNet, 1x, from base.

  python -m rkd_jax.main --config=configs/lvis/ils.py --workdir=runs/lvis/ils

Arguments, data and cost as in base.py.  Published (mask APr / APc / APf / AP):
17.0 / 21.2 / 26.1 / 22.4.
"""

from rkd_jax.configs.lvis import base


def get_config(argument: str | None = None):
  c = base.get_config(argument, start="base")
  c.name = "lvis ILS"
  base.add_ils(c)
  return c
