"""Whether a detector that is trained on keeps what it could do: zero-shot retention.

`config.evaluation.retention` names records of other classes, such as those that a published
detector was evaluated on.  They are measured before the first step and with every evaluation, and
what changed since the start is told.
"""

import os
from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import logging

from rkd_jax.runs import evaluations


def config_of(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict | None:
  """The config that measures the old classes, None where none are named.

  The network, its sizes and thresholds are those of the run; records, class embeddings and protocol
  are those of `evaluation.retention`.
  """
  own = config.get("evaluation", {}).get("retention", {})
  if not own.get("name"):
    return None
  other = config.copy_and_resolve_references()
  other.data.dir, other.data.name = own.dir or config.data.dir, own.name
  other.data.eval.split, other.evaluation.protocol = own.split, own.protocol
  other.class_embeddings = own.class_embeddings or config.class_embeddings
  other.image_counts = ""
  return other


def compared(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike, step: int, found: Mapping[str, Any]
) -> dict[str, Any]:
  """The results on the old classes, with the change of each since the run's first step.

  Where `retention.metric` fell by more than the part `retention.share` of it, this is said.

  Raises:
    ValueError: there is no such metric.
  """
  own = config.evaluation.retention
  metrics = {key: value for key, value in found.items() if key not in ("step", "per_class")}
  if own.metric not in metrics:
    raise ValueError(
      f"evaluation.retention.metric is {own.metric!r}; the protocol {own.protocol!r} gives "
      f"{', '.join(metrics)}."
    )
  results = {"records": f"{own.name}/{own.split}", **metrics}
  start = evaluations.read(workdir).get(0, {}).get("retention", {}) if step else {}
  if start.get("records") != results["records"]:
    return results
  for name, value in metrics.items():
    if value is not None and start.get(name) is not None:
      results[f"{name}_change"] = value - start[name]
  before, now = start.get(own.metric), metrics[own.metric]
  if before and now is not None and now < before * (1 - own.share):
    logging.warning(
      "The old classes (%s) fell from %s %.1f to %.1f at step %d, by more than %.0f %%: lower "
      "optimizer.learning_rate, train for fewer steps, or freeze more.",
      *(results["records"], own.metric, before, now, step, 100 * own.share),
    )
  return results
