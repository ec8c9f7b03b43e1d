"""OV-LVIS, RKD + ILS + weight transfer, 720k steps.

  python -m rkd_jax.main --config=configs/lvis/rkd_ils_weight_transfer_8x.py \\
    --workdir=runs/lvis/rkd_ils_weight_transfer_8x

Arguments, data and cost as in base.py.  Published (mask APr / APc / APf / AP):
21.1 / 25.0 / 29.1 / 25.9.

Box images are seen at 37 short sides from 128 to 1280 pixels.  A batch first draws one of four
groups of them (up to 416, 704, 992, 1280), as likely as it has sides, then each image one of that
group: an image sees every side equally often, as if it had drawn among all, and eight canvases
hold the batches, 416x1344 to 1280x1344 and turned.
"""

from rkd_jax.configs.lvis import rkd_ils_weight_transfer


def get_config(argument: str | None = None):
  c = rkd_ils_weight_transfer.get_config(argument)
  c.name = "lvis RKD + ILS + weight transfer 8x"
  c.num_steps = 720_000
  c.optimizer.boundaries = (480_000, 640_000)
  c.data.box.update(canvas=(1280, 1344), short_sides=tuple(range(128, 1281, 32)), scale_groups=4)
  return c
