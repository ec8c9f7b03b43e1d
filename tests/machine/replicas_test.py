"""One model on several devices: who gets which."""

import contextlib

import jax
import numpy as np
import pytest

from rkd_jax.machine.replicas import Replicas

VARIABLES = {"w": np.arange(3.0, dtype=np.float32)}
DEVICES = jax.local_devices()[:3]


def device_of(variables):
  [device] = variables["w"].devices()
  return device


def test_a_lone_caller_stays_on_the_first_device():
  replicas = Replicas(VARIABLES)
  with replicas.lease() as first:
    result = jax.jit(lambda v, x: v["w"] + x)(first, np.ones(3, np.float32))
  with replicas.lease() as second:
    assert second is first
  assert device_of(first) == jax.local_devices()[0]
  np.testing.assert_array_equal(result, [1, 2, 3])


def test_calls_at_the_same_time_spread_evenly():
  replicas = Replicas(VARIABLES, DEVICES)
  with contextlib.ExitStack() as stack:
    leased = [stack.enter_context(replicas.lease()) for _ in range(6)]
    results = [jax.jit(lambda v, x: v["w"] + x)(v, np.ones(3, np.float32)) for v in leased]
  assert [device_of(v) for v in leased] == DEVICES * 2
  assert [r.device for r in results] == DEVICES * 2
  # There is one copy per device.
  assert all(a is b for a, b in zip(leased[:3], leased[3:]))


def test_an_error_gives_the_device_back():
  replicas = Replicas(VARIABLES, DEVICES)
  with replicas.lease():
    for _ in range(2):
      with pytest.raises(ValueError, match="no image"), replicas.lease() as variables:
        assert device_of(variables) == DEVICES[1]
        raise ValueError("no image")


def test_what_is_on_all_devices_is_not_copied():
  mesh = jax.sharding.Mesh(np.array(DEVICES), ("data",))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  array = jax.device_put(VARIABLES["w"], everywhere)
  replicas = Replicas({"w": array}, DEVICES)
  with replicas.lease() as first, replicas.lease() as second:
    for device, own in zip(DEVICES, (first, second)):
      [there] = [shard.data for shard in array.addressable_shards if shard.device == device]
      assert device_of(own) == device
      assert own["w"].unsafe_buffer_pointer() == there.unsafe_buffer_pointer()
