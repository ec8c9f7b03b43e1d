"""Draws the batches that training reads, to see what the network sees.

  python -m rkd_jax.show --config=configs/coco/rkd_ils.py --output=DIR
  python -m rkd_jax.show --config=configs/coco/rkd_ils.py --output=DIR --step=5000 --steps=4

DIR gets a sheet (PNG) per step with every image of the batch on its canvas: hatched is what only
pads, and in the colours of the legend are the boxes and masks of the ground truth, pseudo boxes
with their labels, and the teacher's regions by rank.  Batches depend on the seed and the step
alone, so these are the ones that a run of this config has at these steps.
"""

from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.inputs.batching import train_batches
from rkd_jax.inputs.plan import make_plan
from rkd_jax.pictures.batches import draw_batch
from rkd_jax.pictures.draw import png_bytes


def show(config: ml_collections.ConfigDict, output: str, step: int, steps: int, cell: int) -> None:
  """Writes the sheets of the steps step .. step + steps - 1.

  Raises:
    ValueError: not a detector's config, or a batch cannot be made.
  """
  if config.task != "detector":
    raise ValueError(
      f"The config trains task {config.task!r}; only batches of detectors are drawn."
    )
  plan = make_plan(config)
  folder = Path(output)
  folder.mkdir(parents=True, exist_ok=True)
  batches = train_batches(
    plan, step, step + steps, threads=0, skip_bad_images=config.skip_bad_images
  )
  for number, kind, batch in batches:
    sheet = draw_batch(batch, plan.sources[kind].class_names, f"step {number}, {kind} batch", cell)
    path = folder / f"step{number:07d}_{kind}.png"
    path.write_bytes(png_bytes(sheet))
    print(path)


def main(given: flags.FlagValues) -> None:
  show(given.config, given.output, given.step, given.steps, given.cell)


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("output", None, "Folder for the sheets.")
  flags.DEFINE_integer("step", 0, "First step to draw.", lower_bound=0)
  flags.DEFINE_integer("steps", 2, "How many steps.", lower_bound=1)
  flags.DEFINE_integer("cell", 640, "Pixels an image gets on its sheet.", lower_bound=64)
  flags.mark_flags_as_required(["config", "output"])


if __name__ == "__main__":
  commands.run(main, define_flags)
