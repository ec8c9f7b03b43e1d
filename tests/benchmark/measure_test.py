"""What a measurement counts, and when it ends."""

import jax
import jax.numpy as jnp

from rkd_jax.benchmark import measure
from rkd_jax.benchmark.measure import Budget, Ceilings

ONCE = Budget(1, 0.0)


def _flops(function, *shapes):
  return measure.matmul_flops(jax.make_jaxpr(function)(*(jnp.zeros(s) for s in shapes)))


def test_flops_of_products_count_contractions_and_loops():
  assert _flops(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
  assert _flops(lambda a: jax.lax.map(lambda x: x @ x, a), (4, 3, 3)) == 4 * 2 * 27
  assert _flops(lambda a: jax.jit(lambda x: jax.nn.relu(x @ x))(a) + a, (3, 3)) == 2 * 27
  larger = lambda a: jax.lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, a)  # noqa: E731
  assert _flops(larger, (3, 3)) == 2 * 2 * 27


def test_flops_of_a_strided_convolution_and_its_gradients_are_equal():
  def convolve(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=dimensions
    )

  shapes = (2, 8, 8, 3), (3, 3, 3, 16)
  forward = 2 * (2 * 4 * 4 * 16) * (3 * 3 * 3)
  assert _flops(convolve, *shapes) == forward
  for argument in (0, 1):
    gradient = jax.grad(lambda *args: jnp.sum(convolve(*args)), argument)
    assert _flops(gradient, *shapes) == 2 * forward  # the convolution itself is traced too


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
