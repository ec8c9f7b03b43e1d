"""A recipe of seconds, and its config; a program that makes it as `rkd-jax recipe` does.

  PYTHONPATH=.:tests python tests/tiny_rows.py tiny --root=ROOT

after `tiny.build_data(ROOT)`.
"""

import json
from pathlib import Path

import tiny

from rkd_jax.configs import common
from rkd_jax.pictures.components import AP50
from rkd_jax.recipe import __main__ as command
from rkd_jax.recipe import recipes
from rkd_jax.recipe.demo_rows import ELSEWHERE
from rkd_jax.recipe.needs import known as needs
from rkd_jax.recipe.needs.need import Need
from rkd_jax.recipe.order import Order
from rkd_jax.recipe.rows import Group, Recipe, Row


def get_config(argument):
  """The config of a row: `steps,root=ROOT,seed=0`; every row has the same network."""
  args = common.arguments(argument, steps=4, root="", seed=0)
  c = tiny.get_config(args.root)
  c.seed, c.num_steps, c.checkpoint.every = args.seed, args.steps, 2
  c.data.schedule = ("box",)
  return c


RECIPE = Recipe(
  "tiny",
  "Tiny",
  AP50,
  (
    Row("base", "base", __file__, "4", needs=("data",), paper=(1.7, 53.2, 39.6)),
    Row("rkd", "RKD", __file__, "2", parent="base"),
    Row("control", "RKD, longer", __file__, "2", parent="rkd", control=True),
    Row(
      "base_again",
      "base, five detections",
      parent="base",
      trains=False,
      settings={"model.test.detections": 5},
      group="again",
    ),
    Row(
      "base_elsewhere",
      "base, on another data set",
      parent="base",
      trains=False,
      settings=ELSEWHERE,
      group="again",
    ),
  ),
  lambda root, row, seed: f"{root}/{row}/seed{seed}",
  lambda root, seed: f"root={root},seed={seed}",
  groups={"again": Group("Evaluated again", ("base",))},
)
NEEDS = {
  "data": Need(
    "Records",
    lambda order: (Path(order.root) / "data").is_dir(),
    lambda order: ["python", "-m", "tiny", f"--output={order.root}"],
  )
}


def order_of(root, *names, only=False, seeds=(0,), **more):
  """Some rows, by default all."""
  chosen = RECIPE.chosen(names, with_parents=not only)
  return Order(RECIPE, str(root), seeds, tuple(chosen), only, **more)


def write_run(order, name, step, seed=0, **results):
  """What is there of a run with a checkpoint, and its evaluation if there are results."""
  row = order.recipe.row(name)
  folder = Path(order.folder(row, seed))
  (folder / "checkpoints" / str(step)).mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(order.config(row, seed).to_dict()))
  if results:
    (folder / "evaluation.json").write_text(json.dumps({"step": step, **results}))
  return folder


if __name__ == "__main__":
  recipes.RECIPES["tiny"], needs.NEEDS["tiny"] = RECIPE, NEEDS
  command.start()
