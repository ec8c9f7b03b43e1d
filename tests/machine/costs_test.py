"""The arithmetic and the memory of small programs, and what devices and compilers say of memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rkd_jax.machine import costs


def _flops(function, *shapes):
  return costs.matmul_flops(jax.make_jaxpr(function)(*(jnp.zeros(s) for s in shapes)))


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


def test_flops_of_what_each_device_does_alone_are_those_of_all():
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))

  def product(x, kernel):
    places = (PartitionSpec("data"), PartitionSpec())
    return jax.shard_map(jnp.matmul, mesh=mesh, in_specs=places, out_specs=places[0])(x, kernel)

  assert _flops(product, (8, 3), (3, 5)) == 2 * 8 * 3 * 5


def test_memory_counts_a_donated_argument_once():
  x = jnp.ones(1000)
  needed = [
    costs.needed_memory(jax.jit(lambda x: x + 1, donate_argnums=donated).lower(x).compile())
    for donated in ((), 0)
  ]
  assert needed[0] - needed[1] == x.nbytes and needed[1] >= x.nbytes


def test_the_limit_is_that_of_the_device_that_has_least(monkeypatch):
  class Device:
    def __init__(self, limit):
      self.memory_stats = lambda: limit and {"bytes_in_use": 1, "bytes_limit": limit}

  assert costs.memory_limit() is None  # CPUs do not say
  monkeypatch.setattr(jax, "local_devices", lambda: [Device(5), Device(3), Device(None)])
  assert costs.memory_limit() == 3


@pytest.mark.parametrize(
  "text",
  [
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(42.26G) exceeds available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.\nUsed 42.26G of 15.75G hbm.",
  ],
)
def test_what_a_compiler_refuses_for_its_size_is_said_with_both(text):
  assert costs.refused_memory(RuntimeError(text)) == ("42.26G", "15.75G")
  assert costs.refused_memory(RuntimeError("NO: f64")) is None
