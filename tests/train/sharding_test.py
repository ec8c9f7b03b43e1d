import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rkd_jax.train.sharding import make_mesh, placed, replicated, shard_batch, split


def test_one_axis_takes_all_devices():
  assert dict(make_mesh().shape) == {"data": 8}
  assert dict(make_mesh(jax.devices()[:3]).shape) == {"data": 3}


def test_what_is_replicated_is_whole_on_every_device():
  everywhere = jax.device_put(np.arange(3), replicated(make_mesh()))
  assert [shard.data.shape for shard in everywhere.addressable_shards] == [(3,)] * 8


def test_batches_are_split_in_the_order_of_their_images():
  batch = {"images": np.arange(16).reshape(8, 2)}
  images = shard_batch(make_mesh(jax.devices()[:4]), batch)["images"]
  np.testing.assert_array_equal(images, batch["images"])
  rows = [shard.data[:, 0].tolist() for shard in images.addressable_shards]
  assert rows == [[0, 2], [4, 6], [8, 10], [12, 14]]


def test_abstract_arrays_say_where_they_are_to_lie():
  tree = {"a": np.zeros((4, 3), np.float32), "b": np.zeros(8, bool)}
  abstract = placed(tree, split(make_mesh(jax.devices()[:4])))
  assert {name: (x.shape, x.dtype) for name, x in abstract.items()} == {
    "a": ((4, 3), np.float32),
    "b": ((8,), bool),
  }
  assert {x.sharding.spec for x in abstract.values()} == {P("data")}


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match=r"A batch of 6 images does not divide over 8 devices"):
    shard_batch(make_mesh(), {"images": np.zeros((6, 2))})
