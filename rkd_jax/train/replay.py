"""One step again, with the norms of every term and layer: where does what is not finite come from?

  python -m rkd_jax.main --replay=WORKDIR/nonfinite/STEP

reads what training wrote there when it stopped.  A checkpoint, WORKDIR/checkpoints/STEP, serves as
well: the step that follows it, say one whose loss jumped.
"""

import functools
import json
import os
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rkd_jax.inputs.batching import train_batches
from rkd_jax.runs.checkpoint import CheckpointError, run_and_step
from rkd_jax.runs.restore import restore_state
from rkd_jax.runs.state import leaves_by_path
from rkd_jax.train.nonfinite import STEP_FILE, batch_digests
from rkd_jax.train.optimizer import frozen_mask
from rkd_jax.train.step import image_keys, make_gradient
from rkd_jax.train.tasks import make_task
from rkd_jax.train.train import Trainer


def replay(path: str | os.PathLike, config: ml_collections.ConfigDict) -> Iterator[str]:
  """Runs the step that a dump or a checkpoint stands before, and yields the lines of a report.

  Args:
    path: of the dump or the checkpoint.
    config: the run's; where records lie and what the machine needs may differ.

  Raises:
    CheckpointError: there is no state, or it belongs to another config.
  """
  folder, _ = run_and_step(path)
  task = make_task(config, os.fspath(folder))
  trainer = Trainer(config, task)
  state = restore_state(path, trainer.abstract_state)
  if state is None:
    raise CheckpointError(f"{path} has no state to run a step on: expected a dump or a checkpoint.")
  step = int(state.step)
  file = folder / STEP_FILE
  said = json.loads(file.read_text()) if file.exists() else {}
  skip = config.skip_bad_images
  [(_, kind, batch)] = train_batches(task.plan, step, step + 1, skip_bad_images=skip)
  records = task.plan.sampler.indices(step).tolist()
  yield f"step {step}, {kind} batch, records {records}"
  if said:
    digests = batch_digests(batch)
    differing = [name for name, digest in said["batch"].items() if digests.get(name) != digest]
    yield (
      f"the batch is NOT the one of the run: other {', '.join(differing)}"
      if differing
      else "the batch is the one of the run"
    )
  # Made here: within a trace they would be of that trace.
  placed, constants = trainer.place(batch), trainer.constants
  gradient_of = make_gradient(task.loss, frozen_mask(state.params, config.frozen))

  @functools.partial(jax.jit, static_argnames="term")
  def gradient(params, carried, batch, term: str):
    keys = image_keys(jax.random.fold_in(jax.random.key(config.seed), step), len(records))
    args = carried, constants, batch, keys, kind
    if not term:
      (loss, (terms, _)), found = gradient_of(params, *args)
      return {"loss": loss, **terms}, found

    def one(params):
      return task.loss(params, *args)[1][0][term]

    return None, jax.grad(one)(params)

  terms, whole = jax.device_get(gradient(state.params, state.carried, placed, ""))
  params = jax.device_get(state.params)
  yield ""
  yield from _table(["layer", "parameters", "gradient", "not finite"], list(_layers(params, whole)))
  yield ""
  before = jax.tree.map(jnp.copy, state)
  updated = trainer.step(state, placed, kind)[1].read()
  norms = {"loss": _number(_norm(whole))}
  for term in terms.keys() - norms.keys():
    own = gradient(before.params, before.carried, placed, term)[1]
    norms[term] = _number(_norm(jax.device_get(own)))
  then = said.get("metrics", {})
  rows = [[t, then.get(t, ""), repr(value), norms.get(t, "")] for t, value in updated.items()]
  yield from _table(["term", "in the run", "now", "gradient"], rows)


def _layers(params, gradient) -> Iterator[list[str]]:
  """Rows of a layer, the norms of its parameters and of their gradient, and how many are bad."""
  layers: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
  slopes = leaves_by_path(gradient)
  for path, values in leaves_by_path(params).items():
    layers.setdefault(path.rpartition("/")[0] or path, []).append((values, slopes[path]))
  for name, pairs in layers.items():
    values, slope = zip(*pairs)
    bad = sum(int((~np.isfinite(x)).sum()) for x in slope)
    yield [name, _number(_norm(values)), _number(_norm(slope)), str(bad or "")]


def _norm(tree) -> float:
  with np.errstate(over="ignore", invalid="ignore"):
    return float(np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in jax.tree.leaves(tree))))


def _number(value: float) -> str:
  return f"{value:.4g}"


def _table(head: list[str], rows: Sequence[list[str]]) -> Iterator[str]:
  """Lines of a table: names to the left, numbers to the right."""
  widths = [max(map(len, column)) for column in zip(head, *rows)]
  for row in [head, *rows]:
    cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
    yield "  ".join(cells).rstrip()
