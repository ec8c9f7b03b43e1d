import jax
import jax.numpy as jnp
import numpy as np
import optax

from rkd_jax.runs.state import create_state


def _init(key):
  return {"w": jax.random.normal(key, (3,))}, {"batch_stats": {"mean": jnp.zeros(3)}}


def test_a_fresh_state_starts_at_step_0_with_everything_the_loop_carries():
  state = create_state(_init, optax.sgd(0.1, momentum=0.9), jax.random.key(7))
  assert (int(state.step), state.step.dtype) == (0, jnp.int32)
  np.testing.assert_array_equal(state.params["w"], jax.random.normal(jax.random.key(7), (3,)))
  np.testing.assert_array_equal(state.model_state["batch_stats"]["mean"], np.zeros(3))
  (momentum,) = (x for x in jax.tree.leaves(state.opt_state) if x.shape == (3,))
  np.testing.assert_array_equal(momentum, np.zeros(3))


def test_it_can_be_described_without_being_computed():
  abstract = jax.eval_shape(lambda key: create_state(_init, optax.sgd(0.1), key), jax.random.key(0))
  assert abstract.params["w"] == jax.ShapeDtypeStruct((3,), jnp.float32)
