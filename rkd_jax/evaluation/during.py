"""Evaluation of a detector while it trains."""

from collections.abc import Callable
from typing import Any

import ml_collections

from rkd_jax.evaluation import retention
from rkd_jax.evaluation.evaluate import evaluate_with_retention, measured, store
from rkd_jax.frozen.detector import Detector
from rkd_jax.machine import cluster


class TrainingEvaluator:
  """Measures the parameters of a run at a step on `config.data.eval.split`, and on the records of
  `config.evaluation.retention` if it names some.

  It is made before the first step, so that what is wrong is said then; programs are compiled when
  it is first called.  Nothing is drawn at random.

  Raises:
    ValueError: see `evaluate.measured`, of either records.
  """

  def __init__(self, config: ml_collections.ConfigDict, workdir: str):
    self._config, self._workdir = config, workdir
    for key, own in (("data", config), ("evaluation.retention", retention.config_of(config))):
      try:
        if own is not None:
          measured(own)
      except ValueError as error:
        raise ValueError(
          f"Training is to be evaluated every {config.evaluation.every} steps, but {error}. Change "
          f"config.{key} (--config.data.eval.split=train, say), or set --config.evaluation.every=0."
        ) from error
    self._detector = Detector(config, {})

  def __call__(self, step: int, params: Any, stop: Callable[[], bool]) -> dict[str, Any] | None:
    """The results, which are also stored in the run's folder; None if `stop` said so meanwhile.

    Of several processes the first has results, and all call this; others have {}.
    """
    detector = self._detector.with_params(params, step)
    results = evaluate_with_retention(self._config, self._workdir, detector, stop)
    with cluster.together():
      if results and cluster.is_first():
        store(self._workdir, results)
    return results
