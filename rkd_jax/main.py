"""Trains or evaluates what a config describes.

  python -m rkd_jax.main --config=coco/rkd_ils --workdir=DIR
  python -m rkd_jax.main --workdir=DIR --mode=eval [--calibrate | --calibrate_on=SPLIT]
  python -m rkd_jax.main --config=my_config.py --workdir=DIR --config.num_steps=100

--config is a file, or the name of a config of rkd_jax; settings of it are changed as in the last
line.  Training resumes from the newest checkpoint in the workdir by itself.  What is evaluated has
by default the config that it was trained with, and may be DIR/checkpoints/best, or a step there.

  python -m rkd_jax.main --replay=DIR/nonfinite/STEP

runs a step again whose loss was not finite; see `train.replay`.

On several hosts all run the same command with a --workdir that all of them see.  TPU pods, SLURM,
Open MPI and indexed jobs of Kubernetes are recognised; elsewhere each process is told which it is:

  ... --coordinator=HOST:PORT --process_id=0 --process_count=2
  ... --coordinator=HOST:PORT --process_id=1 --process_count=2
"""

import json

import jax
from absl import flags
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.evaluation.ceilings import clip_on_annotated_boxes
from rkd_jax.evaluation.during import TrainingEvaluator
from rkd_jax.evaluation.evaluate import evaluate
from rkd_jax.frozen.clip import load_clip
from rkd_jax.machine import cluster
from rkd_jax.runs.config import restore_config
from rkd_jax.train.replay import replay
from rkd_jax.train.train import train


def main(given: flags.FlagValues) -> None:
  if given.replay:
    for line in replay(given.replay, given.config or restore_config(given.replay)):
      print(line, flush=True)
    return
  config = given.config
  if given.mode == "eval":
    if config is None:
      config = restore_config(given.workdir)
      commands.use(config, given)
    # Only training stops at a step of its own choice.
    jax.config.update("jax_enable_preemption_service", False)
  with cluster.joined(config.hosts, given.coordinator, given.process_id, given.process_count):
    flag_values = {"mode": given.mode, "workdir": given.workdir}
    cluster.check_same({"config": config.to_dict(), **flag_values})
    if given.mode == "train":
      train(config, given.workdir, TrainingEvaluator)
    else:
      results = evaluate(config, given.workdir, given.calibrate_on or given.calibrate)
      if cluster.is_first():
        if given.ceiling:
          found = clip_on_annotated_boxes(config, load_clip(given.ceiling))
          results = {**results, "clip_on_annotated_boxes": found}
        print(json.dumps(results, indent=2))


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and results.")
  flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
  flags.DEFINE_bool(
    "calibrate",
    False,
    "With --mode=eval: write thresholds.json, the scores for --min_score=auto, and probabilities.",
  )
  flags.DEFINE_string(
    "calibrate_on",
    None,
    "As --calibrate, from another split of the records, and measured on the evaluated one.",
  )
  flags.DEFINE_string(
    "ceiling", None, "With --mode=eval: a CLIP, whose AP on the annotated boxes is shown as well."
  )
  commands.define_skip_flag()
  flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where JAX does not find it.")
  flags.DEFINE_integer("process_id", None, "Number of this process, with --coordinator.")
  flags.DEFINE_integer(
    "process_count", None, "Number of processes, with --coordinator; 1 is a process alone anywhere."
  )
  flags.DEFINE_string("replay", None, "A dump or checkpoint whose next step is to be run again.")
  flags.register_multi_flags_validator(
    ["config", "workdir", "mode", "replay"],
    lambda given: (
      given["replay"] or (given["workdir"] and (given["config"] or given["mode"] == "eval"))
    ),
    "Flags --config (but to evaluate) and --workdir must have a value other than None.",
  )


if __name__ == "__main__":
  commands.run(main, define_flags)
