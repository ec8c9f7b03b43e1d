"""Tests of `rkd_jax.machine.target.in_parts_on_cpu`, on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.machine.target import in_parts_on_cpu

SINGLE_DEVICE = True


def _function(scale, x, y):
  return {"sum": scale * x + y, "most": jnp.max(x, axis=1)}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
def test_parts_give_what_all_rows_give(count, recompute):
  rng = np.random.default_rng(0)
  # Whole numbers: exact however a compiler orders the sums.
  x, y = (jnp.asarray(rng.integers(-9, 9, (count, 2)), jnp.float32) for _ in range(2))
  seen = []

  def function(scale, x, y):
    seen.append(len(x))
    return _function(scale, x, y)

  def total(function, scale):
    return sum(jnp.sum(value**2) for value in jax.tree.leaves(function(scale)))

  found = in_parts_on_cpu(function, 3.0, (x, y), 3, recompute)
  jax.tree.map(np.testing.assert_array_equal, found, _function(3.0, x, y))
  assert max(seen) <= 3
  gradients = [
    jax.grad(total, argnums=1)(f, 3.0)
    for f in (
      lambda s: in_parts_on_cpu(_function, s, (x, y), 3, recompute),
      lambda s: _function(s, x, y),
    )
  ]
  np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_the_backward_pass_computes_parts_again_on_request():
  x = jnp.ones((10, 2))

  def products(recompute):
    def total(x):
      return in_parts_on_cpu(lambda scale, x: jnp.exp(scale * x), 3.0, (x,), 3, recompute).sum()

    return str(jax.make_jaxpr(jax.grad(total))(x)).count(" exp ")

  assert (products(False), products(True)) == (1, 2)


def test_several_devices_take_all_rows_at_once(monkeypatch):
  monkeypatch.setattr("rkd_jax.machine.target._single_cpu", lambda: False)
  assert "scan" not in str(
    jax.make_jaxpr(lambda x: in_parts_on_cpu(_function, 3.0, (x, x), 3))(jnp.ones((10, 2)))
  )
