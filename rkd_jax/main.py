"""Trains or evaluates what a config describes.

  python -m rkd_jax.main --config=coco/rkd_ils --workdir=DIR
  python -m rkd_jax.main --config=coco/rkd_ils --workdir=DIR --mode=eval
  python -m rkd_jax.main --config=my_config.py --workdir=DIR --config.num_steps=100

--config is a file, or the name of a config of rkd_jax; settings of it are changed as in the last
line.  Training resumes from the newest checkpoint in the workdir by itself.
"""

import json

from absl import flags
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.evaluation.evaluate import evaluate
from rkd_jax.train.train import train


def main(given: flags.FlagValues) -> None:
  if given.mode == "train":
    train(given.config, given.workdir)
  else:
    print(json.dumps(evaluate(given.config, given.workdir), indent=2))


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and results.")
  flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
  flags.mark_flags_as_required(["config", "workdir"])


if __name__ == "__main__":
  commands.run(main, define_flags)
