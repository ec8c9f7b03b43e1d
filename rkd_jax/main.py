"""Trains or evaluates what a config describes.

  python -m rkd_jax.main --config=configs/demo.py --workdir=DIR
  python -m rkd_jax.main --config=configs/demo.py --workdir=DIR --mode=eval
  python -m rkd_jax.main --config=configs/demo.py --workdir=DIR --config.num_steps=100

Training resumes from the newest checkpoint in the workdir by itself.
"""

import json

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from rkd_jax.evaluation.evaluate import evaluate
from rkd_jax.machine.memory import return_memory_after_compiling
from rkd_jax.train.train import train

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and results.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(
      f"Unexpected argument {argv[1]!r}; settings are given as --config.key=value."
    )
  logging.set_verbosity(logging.WARNING)
  return_memory_after_compiling()
  config = _CONFIG.value
  if config.compilation_cache:
    jax.config.update("jax_compilation_cache_dir", config.compilation_cache)
  if _MODE.value == "train":
    train(config, _WORKDIR.value)
  else:
    print(json.dumps(evaluate(config, _WORKDIR.value), indent=2))


if __name__ == "__main__":
  app.run(main)
