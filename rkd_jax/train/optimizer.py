"""Optimisers and learning-rate schedules, from the config."""

import re
from collections.abc import Sequence

import jax
import ml_collections
import optax

from rkd_jax.runs.state import parameter_paths


def make_schedule(config: ml_collections.ConfigDict, num_steps: int) -> optax.Schedule:
  """Learning rate at a step.

  `steps`: linear warm-up from `warmup_factor` over `warmup_steps`, then a factor 0.1 at every
  boundary (detectron2's WarmupMultiStepLR).  `cosine`: after it a half cosine to 0 at `num_steps`.
  """
  peak = config.learning_rate
  if config.schedule == "steps":
    after = optax.piecewise_constant_schedule(peak, dict.fromkeys(config.boundaries, 0.1))
  elif config.schedule == "cosine":
    after = optax.cosine_decay_schedule(peak, max(num_steps - config.warmup_steps, 1))
  else:
    raise ValueError(f"optimizer.schedule is {config.schedule!r}; expected 'steps' or 'cosine'.")

  def schedule(step):
    # Boundaries count from step 0; the cosine starts where the warm-up ends.
    base = after(step if config.schedule == "steps" else step - config.warmup_steps)
    alpha = step / max(config.warmup_steps, 1)
    factor = config.warmup_factor * (1.0 - alpha) + alpha
    warming = step < config.warmup_steps
    return jax.numpy.where(warming, peak * factor, base)

  return schedule


def frozen_mask(params, patterns: Sequence[str]):
  """True for parameters whose path matches one of the regular expressions.

  Raises:
    ValueError: a pattern matches no parameter, so that a typo cannot unfreeze.
  """
  paths = parameter_paths(params)
  flat = jax.tree.leaves(paths)
  for pattern in patterns:
    if not any(re.fullmatch(pattern, path) for path in flat):
      raise ValueError(f"frozen: {pattern!r} matches no parameter; paths look like {flat[0]!r}.")
  return jax.tree.map(lambda path: any(re.fullmatch(p, path) for p in patterns), paths)


def make_optimizer(
  config: ml_collections.ConfigDict, num_steps: int, frozen
) -> optax.GradientTransformation:
  """SGD as in the originals, or AdamW for small networks from scratch.

  `sgd`: weight decay is added to the gradient before momentum, on all trainable
  parameters, biases too; the learning rate multiplies the momentum buffer.
  `adamw`: decoupled decay on matrices and kernels only.
  `frozen` is the mask of `frozen_mask`; frozen parameters have no state.
  """
  schedule = make_schedule(config, num_steps)
  if config.name == "sgd":
    transform = optax.chain(
      optax.add_decayed_weights(config.weight_decay),
      optax.trace(decay=config.momentum),
      optax.scale_by_learning_rate(schedule),
    )
  elif config.name == "adamw":
    transform = optax.adamw(
      schedule,
      b1=config.momentum,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
  else:
    raise ValueError(f"optimizer.name is {config.name!r}; expected 'sgd' or 'adamw'.")
  if config.clip_norm:
    transform = optax.chain(optax.clip_by_global_norm(config.clip_norm), transform)
  labels = jax.tree.map(lambda x: "frozen" if x else "trained", frozen)
  return optax.partition({"trained": transform, "frozen": optax.set_to_zero()}, labels)
