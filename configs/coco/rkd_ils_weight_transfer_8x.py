"""OV-COCO, RKD + ILS + weight transfer for 720k steps, box images at many sizes.

  python -m rkd_jax.main --config=configs/coco/rkd_ils_weight_transfer_8x.py \\
    --workdir=runs/coco/rkd_ils_weight_transfer_8x

Arguments and data as in base.py; eight times the steps of its 1x.  Published (novel / base / all
AP50): 40.5 / 56.7 / 52.5.
"""

from configs.coco import rkd_ils_weight_transfer


def get_config(argument: str | None = None):
  c = rkd_ils_weight_transfer.get_config(argument)
  c.name = "coco RKD + ILS + weight transfer 8x"
  c.num_steps = 720_000
  c.optimizer.boundaries = (480_000, 640_000)
  c.data.box.short_sides = tuple(range(128, 1281, 32))
  return c
