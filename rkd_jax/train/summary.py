"""What a run trains, in a few lines at its start."""

import jax
import ml_collections

from rkd_jax.inputs.plan import AnySource, Plan
from rkd_jax.train.evaluating import is_due

_KINDS = {"box": "", "image": ", for image steps", "caption": " with captions"}


def summary(config: ml_collections.ConfigDict, plan: Plan, params, frozen, start: int) -> str:
  """A table: what is trained, on which records and classes, from where, for how long.

  Args:
    params: tree of arrays or shapes.
    frozen: the mask of `optimizer.frozen_mask`.
    start: the step that the run goes on from; 0 is its beginning.
  """
  sizes = jax.tree.leaves(jax.tree.map(lambda x: x.size, params))
  stopped = sum(size for size, stop in zip(sizes, jax.tree.leaves(frozen)) if stop)
  kinds = list(dict.fromkeys(plan.schedule))
  first = plan.sources[kinds[0]]
  novel = f", {len(first.novel)} novel" if first.novel else ""
  begin = config.init.checkpoint or config.init.get("backbone") or "random weights"
  rows = {
    "training": f"{config.name}: {sum(sizes):,} parameters, {stopped:,} of them frozen",
    "records": "; ".join(_records(kind, plan.sources[kind]) for kind in kinds),
    "classes": f"{len(first.base)} base{novel}",
    "start": begin if start == 0 else f"step {start:,} of this run, which began with {begin}",
    "steps": f"{config.num_steps:,}, {'; '.join(_epochs(config, plan, kind) for kind in kinds)}",
  }
  if is_due(config, config.num_steps):
    kept = f"; the best {config.checkpoint.best} is kept" if config.checkpoint.best else ""
    own = config.evaluation.retention
    old = f", and on {own.name}/{own.split} for what it could do before" if own.name else ""
    split = config.data.eval.split
    rows["evaluation"] = f"every {config.evaluation.every:,} steps on {split}{old}{kept}"
  return "\n".join(f"{name:10}  {text}" for name, text in rows.items())


def _records(kind: str, source: AnySource) -> str:
  counts = source.index.num_boxes
  boxes = f" with {int(counts.sum()):,} boxes" if kind == "box" and counts is not None else ""
  return f"{len(source):,} images{boxes} of {source.name}{_KINDS[kind]}"


def _epochs(config: ml_collections.ConfigDict, plan: Plan, kind: str) -> str:
  images = plan.specs[kind].batch_size
  shown = config.num_steps * plan.schedule.count(kind) / len(plan.schedule) * images
  return f"{images} images each, {shown / len(plan.sources[kind]):.1f} epochs{_KINDS[kind]}"
