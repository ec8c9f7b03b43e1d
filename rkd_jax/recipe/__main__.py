"""Makes the rows of a table of experiments, and writes it beside the paper's numbers.

  rkd-jax recipe demo
  rkd-jax recipe coco --root=runs/coco --rows=base,rkd --seeds=0,1,2
  rkd-jax recipe coco_json --root=runs/mine --clip=weights/ViT-B-32.pt --arguments=size=192
  rkd-jax recipe lvis --dry_run
  rkd-jax recipe demo --root=runs/quick --config.num_steps=20

Recipes are coco, lvis, demo and coco_json (own photographs).  Rows that the chosen ones start from
are made, too; with --only they must be there.  What is finished is skipped and training goes on
where it was, so a recipe that was killed is started again with the same command.  Prerequisites
(records, class embeddings, teachers' results) are made where all that they need is there; of others
a sentence says, before anything is trained, which command makes them.  --rows takes names of rows,
of groups of rows such as losses, and all.

--config.KEY=VALUE changes a setting of all rows.

Several processes, on hosts that share the root, may be given the same command: each takes a row
that no other has, and waits for those that it needs.  --workers=2 starts a second one on this
machine, whose CPU one training leaves idle in part.

ROOT gets recipe.json (every seed, mean, sample standard deviation, median, the paper's numbers),
recipe.md and recipe.html.
"""

import functools
import sys
import time
from collections.abc import Sequence

from absl import flags, logging

from rkd_jax import commands
from rkd_jax.files import storage
from rkd_jax.recipe import recipes, table
from rkd_jax.recipe.order import Order, check, parse_seeds, parse_settings
from rkd_jax.recipe.run import Clock, jobs_of, prepare, run
from rkd_jax.runs.lock import WorkdirInUseError, locked


def make_order(given: flags.FlagValues, names: Sequence[str], changes: Sequence[str]) -> Order:
  """What the command line asks for; ValueError for what there is not."""
  if len(names) != 1:
    raise ValueError(f"Name one recipe, of {', '.join(recipes.RECIPES)}: rkd-jax recipe demo.")
  recipe = recipes.find(names[0])
  if given.only and not given.rows:
    raise ValueError("--only is for some rows: name them with --rows=ROW,ROW.")
  return Order(
    recipe,
    (given.root or recipe.root).rstrip("/"),
    parse_seeds(given.seeds),
    tuple(recipe.chosen(given.rows, with_parents=not given.only)),
    given.only,
    parse_settings(changes),
    given.arguments,
    given.weights.rstrip("/"),
    given.clip or "",
  )


def main(given: flags.FlagValues, names: Sequence[str], changes: Sequence[str] = ()) -> None:
  order = make_order(given, names, changes)
  if given.dry_run:
    check(order)
    for job in jobs_of(order):
      print(f"{'there' if job.is_done() else 'to do':6} {job.title}")
    prepare(order)
    return
  clock = Clock()

  def write(job: object = None) -> None:
    table.write(order, table.collect(order))

  prepare(order, given.workers)
  write()
  run(order, clock, write, given.workers)
  results = table.collect(order)
  write()
  if given.report_images:
    _report(order, results, given.report_images, clock)
  print("\n" + table.printed(order, results))
  print(f"\n{order.root}/recipe.html, recipe.md, recipe.json: the table.")
  print(f"{time.monotonic() - clock.begin:.0f} s in all.")


def _report(order: Order, results: table.Results, images: int, clock: Clock) -> None:
  """The page with pictures and errors, by one of several processes."""
  try:
    with clock("report"), locked(storage.path(order.root) / "locks" / "report"):
      table.write_report(order, results, images)
  except WorkdirInUseError as error:
    logging.warning("Another process writes the report: %s", error)


def define_flags() -> None:
  flags.DEFINE_string("root", None, "Folder of everything that is made; default: runs/RECIPE.")
  flags.DEFINE_list("rows", [], "Rows to make, or groups of rows, with those they start from.")
  flags.DEFINE_bool("only", False, "Make no row but --rows; what they start from is there.")
  flags.DEFINE_list("seeds", ["0"], "Seeds of the detectors, such as 0,1,2.")
  flags.DEFINE_string("arguments", "", "Of all configs, such as 'size=192,steps=400'.")
  flags.DEFINE_string("weights", "weights", "Folder that `rkd-jax download` filled.")
  flags.DEFINE_string("clip", None, "CLIP of an own project: weights, or a run's folder.")
  flags.DEFINE_integer(
    "workers", 1, "Processes that train different rows at once, on CPUs.", lower_bound=1
  )
  flags.DEFINE_bool("dry_run", False, "Say what is there and what is to do, and do nothing.")
  flags.DEFINE_integer(
    "report_images", 400, "Images that the page looks at; 0 leaves the table alone.", lower_bound=0
  )


def start() -> None:
  """Runs the command line of the module's docstring."""
  # Settings are of no config in particular, so that absl does not know them.
  changes = [word for word in sys.argv[1:] if word.startswith("--config.")]
  sys.argv[1:] = [word for word in sys.argv[1:] if word not in changes]
  commands.run(functools.partial(main, changes=changes), define_flags, with_arguments=True)


if __name__ == "__main__":
  start()
