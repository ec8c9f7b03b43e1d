"""What training carries from step to step, and how it begins."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int


@struct.dataclass
class TrainState:
  """`model_state` holds running statistics ('batch_stats'), empty for most models.

  `memory` is what the loss remembers of earlier batches ('queue'), empty for most: no part of the
  network, so that it is stored with the optimiser's state.
  `step` counts the updates; it is -1 - t once training is to stop for what step t gave (`step.py`).
  """

  step: Int[Array, ""]
  params: Any
  model_state: Any
  opt_state: optax.OptState
  memory: dict[str, Any] = struct.field(default_factory=dict)

  @property
  def carried(self) -> dict[str, Any]:
    """What a loss is given and returns anew: `model_state` and `memory`."""
    return {**self.model_state, **self.memory}


def create_state(
  init: Callable[[jax.Array], tuple[Any, Any]],
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  memory: Callable[[], dict[str, Any]] = dict,
) -> TrainState:
  """A fresh state; `init(key)` gives (params, model_state).  Meant for jit / eval_shape."""
  params, model_state = init(key)
  step = jnp.zeros((), jnp.int32)
  return TrainState(step, params, model_state, optimizer.init(params), memory())


def parameter_paths(params) -> dict:
  """The tree of `params` with each leaf replaced by its path, 'backbone/stem/kernel'."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
  )


def leaves_by_path(tree) -> dict[str, Any]:
  """'backbone/stem/kernel' -> leaf."""
  return dict(zip(jax.tree.leaves(parameter_paths(tree)), jax.tree.leaves(tree)))
