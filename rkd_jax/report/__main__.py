"""A page about one run, or about several side by side.

  rkd-jax report RUN
  rkd-jax report RUN RUN --output=compared.html --limit=500

RUN is the --workdir of a detector's run, or `RUN/checkpoints/STEP` in it.  The page is one HTML
file that needs nothing else: AP, training curves, classes, precision and recall, scores as
probabilities, kinds of errors, confusions, sizes, proposals, the best and worst images, where
region embeddings lie, and which box a label of an image would supervise.  What a detector finds is
kept in RUN/report.npz, so that the next page takes seconds; a section that cannot be made says why.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import logging

from rkd_jax.files.terminal import print_any_name
from rkd_jax.report.build import LIMIT, build
from rkd_jax.report.examination import open_run
from rkd_jax.runs.checkpoint import run_and_step


def short_names(folders: Sequence[str]) -> list[str]:
  """What tells the folders apart: their paths without the parts that all begin or end with.

  A single folder has its last two parts, and one that is given again a number.
  """
  paths = [Path(os.path.abspath(folder)).parts for folder in folders]
  unlike = list(dict.fromkeys(paths))
  if len(unlike) == 1:
    names = ["/".join(path[1:][-2:]) for path in paths]
  else:
    begin = _common(unlike)
    rest = [path[begin:] for path in unlike]
    end = _common([path[::-1] for path in rest])
    names = ["/".join(path[begin : len(path) - end]) for path in paths]
  seen: dict[str, int] = {}
  for place, name in enumerate(names):
    seen[name] = seen.get(name, 0) + 1
    names[place] = name if seen[name] == 1 else f"{name} ({seen[name]})"
  return names


def _common(paths: Sequence[Sequence[str]]) -> int:
  """How many first parts all paths share; of each at least one is not counted."""
  most = min(map(len, paths)) - 1
  return next((k for k in range(most) if len({path[k] for path in paths}) > 1), most)


def main(arguments: Sequence[str]) -> None:
  args = _parser().parse_args(arguments)
  logging.set_verbosity(logging.WARNING)
  print_any_name()
  try:
    where = args.data_dir, args.class_embeddings
    runs = [open_run(run, name, *where) for run, name in zip(args.runs, short_names(args.runs))]
    cache = runs[0].config.compilation_cache
    if cache:
      jax.config.update("jax_compilation_cache_dir", cache)
    output = args.output or Path(run_and_step(args.runs[0])[0]) / "report.html"
    title = args.title or " · ".join(run.name for run in runs)
    build(runs, output, title, args.limit)
  except (ValueError, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
  print(f"{output}: open it in a browser.")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="rkd-jax report",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or of a checkpoint")
  parser.add_argument("--output", help="HTML file; default: report.html in the first run")
  parser.add_argument("--limit", type=_positive, default=LIMIT, help="images of the split")
  parser.add_argument("--title", help="of the page; default: the names of the runs")
  parser.add_argument("--data_dir", help="where the data set lies now, if it has moved")
  parser.add_argument("--class_embeddings", help="where they lie now, if they have moved")
  return parser


def _positive(text: str) -> int:
  if not text.isdigit() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is no number of images from 1 on")
  return int(text)


if __name__ == "__main__":
  main(sys.argv[1:])
