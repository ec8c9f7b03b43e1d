import functools

import jax
import ml_collections
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from rkd_jax.runs.state import create_state
from rkd_jax.train import sharding
from rkd_jax.train.sharding import make_mesh, replicated, shard_batch, shardings


def _mesh(data=-1, model=1, devices=None):
  return make_mesh(ml_collections.ConfigDict({"data": data, "model": model}), devices)


def test_the_data_axis_takes_the_devices_that_model_leaves():
  assert dict(_mesh().shape) == {"data": 8, "model": 1}
  assert dict(_mesh(model=2).shape) == {"data": 4, "model": 2}
  assert dict(_mesh(data=2, model=4).shape) == {"data": 2, "model": 4}
  assert dict(_mesh(devices=jax.devices()[:1]).shape) == {"data": 1, "model": 1}


@pytest.mark.parametrize("data, model", [(-1, 3), (2, 2), (-1, 16)])
def test_a_mesh_that_does_not_cover_the_devices_is_refused(data, model):
  with pytest.raises(ValueError, match=r"does not cover 8 devices; set config\.mesh"):
    _mesh(data, model)


def _abstract_state(fc1_width: int):
  shapes = {
    "backbone": {"stem": {"kernel": (7, 7, 3, 16)}},
    "box_head": {"fc1": {"kernel": (12, fc1_width), "bias": (fc1_width,)}},
  }
  is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
  params = jax.tree.map(np.zeros, shapes, is_leaf=is_shape)
  init = functools.partial(create_state, lambda _: (params, {}), optax.sgd(0.1, momentum=0.9))
  return jax.eval_shape(init, jax.random.key(0))


def test_rules_shard_the_large_matrices_and_their_momentum_over_model():
  state = _abstract_state(fc1_width=6)
  specs = jax.tree.map(lambda s: s.spec, shardings(_mesh(model=2), state))
  assert specs.params["box_head"]["fc1"]["kernel"] == P(None, "model")
  assert specs.params["box_head"]["fc1"]["bias"] == P()
  assert specs.params["backbone"]["stem"]["kernel"] == P()
  assert specs.step == P()
  (momentum,) = (
    spec
    for spec, leaf in zip(jax.tree.leaves(specs.opt_state), jax.tree.leaves(state.opt_state))
    if leaf.shape == (12, 6)
  )
  assert momentum == P(None, "model")


def test_what_does_not_divide_is_replicated():
  state = _abstract_state(fc1_width=7)
  specs = jax.tree.map(lambda s: s.spec, shardings(_mesh(model=2), state))
  assert specs.params["box_head"]["fc1"]["kernel"] == P()


def test_the_first_matching_rule_wins_and_must_have_the_rank_of_the_array(monkeypatch):
  tree = {"a": np.zeros((4, 4)), "b": np.zeros(4)}
  rules = (("a", ("model", None)), (".", (None, "model")))
  monkeypatch.setattr(sharding, "RULES", rules)
  specs = jax.tree.map(lambda s: s.spec, shardings(_mesh(model=2), tree))
  assert specs == {"a": P("model", None), "b": P()}


def test_sharded_parameters_hold_a_slice_per_device():
  mesh = _mesh(model=2)
  tree = {"box_head": {"fc1": {"kernel": np.arange(12.0).reshape(2, 6)}}}
  placed = jax.device_put(tree, shardings(mesh, tree))["box_head"]["fc1"]["kernel"]
  assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
  everywhere = jax.device_put(np.arange(3), replicated(mesh))
  assert {shard.data.shape for shard in everywhere.addressable_shards} == {(3,)}


def test_batches_are_split_over_data_and_copied_over_model():
  batch = {"images": np.arange(16).reshape(8, 2)}
  images = shard_batch(_mesh(model=2), batch)["images"]
  np.testing.assert_array_equal(images, batch["images"])
  rows = {shard.device.id: shard.data[:, 0].tolist() for shard in images.addressable_shards}
  assert list(rows.values()) == [r for r in ([0, 2], [4, 6], [8, 10], [12, 14]) for _ in "ab"]


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match=r"A batch of 6 images does not divide over 8 devices"):
    shard_batch(_mesh(), {"images": np.zeros((6, 2))})
