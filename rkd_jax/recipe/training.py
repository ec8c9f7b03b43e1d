"""Single runs: trained and evaluated, or evaluated under other settings; what is done stays."""

import json
import os
from typing import Any

import ml_collections

from rkd_jax.evaluation.ceilings import clip_on_annotated_boxes
from rkd_jax.evaluation.during import TrainingEvaluator
from rkd_jax.evaluation.evaluate import evaluate, evaluate_with_retention, store
from rkd_jax.files import storage
from rkd_jax.frozen.clip import load_clip
from rkd_jax.recipe.order import at_end, results_of
from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.runs.lock import locked
from rkd_jax.train.train import train


def is_finished(config: ml_collections.ConfigDict, workdir: str) -> bool:
  """Whether a run is at its last step and that is evaluated."""
  at_last = at_end(workdir, lambda: config.num_steps)
  return at_last and results_of(workdir, workdir) is not None


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Trains to the last step and evaluates that, as far as it is not done yet; the results.

  Raises:
    WorkdirInUseError: another process has the run.
    SystemExit: code 143 after SIGTERM, with the state saved; and whatever `train` raises.
  """
  trained = at_end(workdir, lambda: config.num_steps)
  if not trained:
    train(config, workdir, TrainingEvaluator)
  # The lock is free for a moment, in which another process may begin to evaluate.
  with locked(workdir):
    results = results_of(workdir, workdir)
    # Those of an earlier version, without a step, are of before.
    if results is None or (not trained and "step" not in results):
      results = evaluate(config, workdir)
  return results


def evaluate_again(
  config: ml_collections.ConfigDict,
  run: str,
  folder: str | os.PathLike,
  of_annotations: bool = False,
) -> dict[str, Any]:
  """Evaluates a run's newest checkpoint with another config, into a folder of its own.

  With `of_annotations` the CLIP of its fusion on the annotated boxes.
  Raises WorkdirInUseError: another process does.
  """
  with locked(folder):
    if of_annotations:
      clip = load_clip(config.model.test.fusion.clip)
      results = {"step": latest_step(run), **clip_on_annotated_boxes(config, clip)}
    else:
      results = evaluate_with_retention(config, os.fspath(folder), run) or {}
    store(folder, results)
    storage.write(storage.path(folder) / "config.json", json.dumps(config.to_dict(), indent=2))
  return results
