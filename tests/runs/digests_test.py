"""Digests of arrays: what they tell apart, and what makes no difference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xxhash
from jax.sharding import NamedSharding, PartitionSpec

from rkd_jax.runs.digests import digests
from rkd_jax.train.sharding import make_mesh, replicated

ARRAY = np.arange(24, dtype=np.float32).reshape(4, 6)


def test_a_digest_says_type_shape_and_values():
  assert digests([ARRAY]) == [f"float32[4,6] {xxhash.xxh3_64_hexdigest(ARRAY.tobytes())}"]
  assert digests([np.int32(3)])[0].startswith("int32[] ")
  assert digests([]) == []


@pytest.mark.parametrize(
  "other",
  [
    ARRAY.reshape(6, 4),
    ARRAY.astype(np.float64),
    ARRAY[::-1],
    np.where(ARRAY == 0, np.float32(-0.0), ARRAY),
    np.nextafter(ARRAY, np.float32(100)),
  ],
)
def test_anything_else_has_another(other):
  assert digests([other]) != digests([ARRAY])


def test_where_the_array_lies_makes_no_difference():
  mesh = make_mesh(jax.devices())
  wide = NamedSharding(mesh, PartitionSpec(None, None))
  rows = NamedSharding(make_mesh(jax.devices()[:4]), PartitionSpec("data"))
  arrays = [
    jnp.asarray(ARRAY),
    np.asfortranarray(ARRAY),
    jax.device_put(ARRAY, replicated(mesh)),
    jax.device_put(ARRAY, wide),
    jax.device_put(ARRAY, rows),
  ]
  assert set(digests(arrays)) == set(digests([ARRAY]))
