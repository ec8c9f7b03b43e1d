import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.ops.top_k import top_k

CASES = {
  "random": lambda rng: rng.normal(size=1003),
  "few different numbers": lambda rng: rng.integers(0, 4, 1003),
  "all equal": lambda rng: np.zeros(1003),
  "mostly none": lambda rng: np.where(np.arange(1003) % 97, -np.inf, rng.normal(size=1003)),
  "sorted": lambda rng: np.arange(1003),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("k", [0, 1, 7, 40, 100, 1003])
def test_groups_give_what_a_full_sort_gives(case, k):
  values = jnp.asarray(CASES[case](np.random.default_rng(k)), jnp.float32)
  found = compiled_for(top_k, Target("tpu"))(values, k)
  for ours, theirs in zip(found, jax.lax.top_k(values, k), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_a_tpu_sorts_few_of_many():
  def longest(platform):
    program = jax.make_jaxpr(lambda x: compiled_for(top_k, Target(platform))(x, 100))(
      jnp.zeros(100_000)
    )
    sorts = [e for e in program.eqns if e.primitive.name in ("top_k", "sort")]
    return max(e.invars[0].aval.size for e in sorts)

  assert longest("cpu") == 100_000
  assert longest("tpu") < 4_000
