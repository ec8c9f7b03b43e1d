"""What a measurement counts, and when it ends."""

import jax.numpy as jnp

from rkd_jax.benchmark import measure
from rkd_jax.benchmark.measure import Budget, Ceilings

ONCE = Budget(1, 0.0)


def test_the_nearer_ceiling_bounds():
  ceilings = Ceilings(flops_per_s=100.0, bytes_per_s=10.0)
  assert ceilings.compare(50.0, 1.0, 1.0) == {"roofline_share": 0.5, "bound": "compute"}
  assert ceilings.compare(50.0, 8.0, 1.0) == {"roofline_share": 0.8, "bound": "memory"}


def test_a_measurement_has_its_steps_or_its_time():
  calls = []
  figures = measure.timed(lambda: calls.append(1), lambda: None, Budget(3, 60.0))
  assert figures["runs"] == 3
  assert measure.timed(lambda: None, lambda: None, Budget(1000, 0.0))["runs"] == 1


def test_a_carried_state_goes_through_every_call():
  def step(state, increment):
    return state + increment, state

  (state, before), figures = measure.measure(
    step, (jnp.zeros((256, 256)), 1.0), Budget(2, 60.0), carry=True
  )
  assert state[0, 0] == before[0, 0] + 1 >= 3
  assert figures["memory_bytes"] >= state.nbytes


def test_memory_names_the_temporary_buffers():
  def function(x):
    # Sorted, since newer versions of XLA work on other results where they are made.
    return jnp.sum(jnp.sort(x @ x) @ x)

  _, figures = measure.measure(function, (jnp.ones((256, 256)),), ONCE)
  assert figures["temp_bytes"] >= 256 * 256 * 4
  assert figures["memory_bytes"] >= figures["temp_bytes"] + 256 * 256 * 4
  assert figures["flops"] == 2 * 2 * 256**3
