"""OV-LVIS, RKD + ILS + weight transfer, 720k steps.

  python -m rkd_jax.main --config=configs/lvis/rkd_ils_weight_transfer_8x.py \\
    --workdir=runs/lvis/rkd_ils_weight_transfer_8x

Arguments, data and cost as in base.py.  Published (mask APr / APc / APf / AP):
21.1 / 25.0 / 29.1 / 25.9.
"""

from configs.lvis import rkd_ils_weight_transfer


def get_config(argument: str | None = None):
  c = rkd_ils_weight_transfer.get_config(argument)
  c.name = "lvis RKD + ILS + weight transfer 8x"
  c.num_steps = 720_000
  c.optimizer.boundaries = (480_000, 640_000)
  c.data.box.short_sides = tuple(range(128, 1281, 32))
  return c
