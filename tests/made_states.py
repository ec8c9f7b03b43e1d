"""States of training for tests of checkpoints."""

import jax
import jax.numpy as jnp
import optax

from rkd_jax.runs.state import TrainState


def make_state(step, width=4, extra=()):
  params = {"head": {"kernel": jnp.full((3, width), float(step)), "bias": jnp.full(width, 0.5)}}
  for name in extra:
    params[name] = {"kernel": jnp.full((2, 2), -1.0)}
  optimizer = optax.sgd(0.1, momentum=0.9)
  return TrainState(
    step=jnp.int32(step),
    params=params,
    model_state={"batch_stats": {"mean": jnp.full(2, float(step))}},
    opt_state=jax.tree.map(lambda x: x + step, optimizer.init(params)),
  )


def variables_of(state):
  return {"params": state.params, "model_state": state.model_state}
