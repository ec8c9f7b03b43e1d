"""Small arrays of a state in few."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.train.packing import Packing


@pytest.fixture
def leaves():
  rng = np.random.default_rng(0)
  shapes = [(3,), (80, 80), (), (2, 2), (5000,), (7,), (0,)]
  arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
  integers = [jnp.int32(5), jnp.arange(4, dtype=jnp.int32)]
  return [*arrays, *integers, jnp.float16(0.5), jax.random.key(3)]


def test_what_is_unpacked_is_what_was_packed(leaves):
  packing = Packing.of(leaves)
  packed = packing.pack(leaves)
  # Two large ones, a type of which there is one, and a key; floats and integers.
  assert [x.shape for x in packed[:2]] == [(80, 80), (5000,)]
  assert sorted(x.shape for x in packed[4:]) == [(5,), (3 + 1 + 4 + 7 + 0,)]
  assert packed[0] is leaves[1]
  for got, want in zip(packing.unpack(packed), leaves, strict=True):
    assert got.shape == want.shape and got.dtype == want.dtype
    got, want = (x if x.dtype != leaves[-1].dtype else jax.random.key_data(x) for x in (got, want))
    np.testing.assert_array_equal(got, want)


def test_within_a_program_it_is_the_same(leaves):
  packing = Packing.of(leaves)

  def double(packed):
    return packing.pack([x if i > 6 else 2 * x for i, x in enumerate(packing.unpack(packed))])

  found = packing.unpack(jax.jit(double)(packing.pack(leaves)))
  for got, want in zip(found[:7], leaves[:7], strict=True):
    np.testing.assert_array_equal(got, 2 * want)


def test_what_is_only_large_stays_as_it_is():
  arrays = [jnp.ones((100, 100)), jnp.zeros(5000), jnp.ones(3)]
  packing = Packing.of(arrays)
  assert packing.groups == ()  # one small array is none less
  assert all(a is b for a, b in zip(packing.unpack(packing.pack(arrays)), arrays, strict=True))
