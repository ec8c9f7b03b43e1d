import argparse
import pickle

import jax
import numpy as np
import pytest
from mavl_golden import StateDict

from rkd_jax.files.torch_writer import write_pth
from rkd_jax.files.untrusted.torch_reader import read_checkpoint
from rkd_jax.models.mavl.model import Mvit
from rkd_jax.weights.mavl import abstract_variables, params_from_torch
from tests.tiny_mvit import CONFIG, state_dict


def test_every_entry_of_the_released_model_is_accounted_for():
  """And the parameters are as many as published, but for the pooler, which nothing uses.

  One of the names of each shared head is enough.
  """
  state = {name: entry["shape"] for name, entry in StateDict()._entries.items()}
  kept = {
    name: np.broadcast_to(np.float32(0), shape)
    for name, shape in state.items()
    if not name.startswith(("class_embed.0", "bbox_embed.0"))
  }
  shapes = jax.eval_shape(lambda: params_from_torch(kept))
  expected = abstract_variables()
  assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, expected)
  pooler = 768 * 768 + 768
  assert sum(x.size for x in jax.tree.leaves(expected)) == 188_844_230 - pooler


def test_a_training_checkpoint_loads(tmp_path):
  """Beside the model stand settings and an optimizer; the unused entries are dropped."""
  surplus = {
    "transformer.text_encoder.embeddings.position_ids": np.arange(4)[None],
    "transformer.text_encoder.pooler.dense.weight": np.ones((16, 16), np.float32),
    "class_embed.0.weight": state_dict()["class_embed.1.weight"],
  }
  path = tmp_path / "mavl.pth"
  content = {
    "model": {**state_dict(), **surplus},
    "optimizer": {"state": {0: np.ones(2)}},
    "args": argparse.Namespace(lr=1e-4, backbone="resnet101"),
    "epoch": 20,
  }
  path.write_bytes(pickle.dumps(content, protocol=2))
  write_pth(tmp_path / "plain.pth", state_dict())
  loaded, plain = (
    params_from_torch(read_checkpoint(file), CONFIG) for file in (path, tmp_path / "plain.pth")
  )
  jax.tree.map(np.testing.assert_array_equal, loaded, plain)
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}


def test_thirds_of_the_attention_projection_go_to_query_key_and_value():
  name = "transformer.decoder.layers.0.self_attn.in_proj_weight"
  attention = params_from_torch(state_dict(), CONFIG)["params"]["decoder_0"]["self_attn"]
  kernels = [attention[part]["kernel"].T for part in ("query", "key", "value")]
  np.testing.assert_array_equal(np.concatenate(kernels), state_dict()[name])


def test_the_last_of_the_shared_heads_is_read():
  state = dict(state_dict())
  state["class_embed.0.weight"] = np.full_like(state["class_embed.1.weight"], 9)
  loaded = params_from_torch(state, CONFIG)["params"]["class_embed"]["kernel"]
  np.testing.assert_array_equal(loaded, state["class_embed.1.weight"].T)


def test_every_misfit_is_named():
  wrong = dict(state_dict(), surplus=np.zeros(1))
  wrong["query_embed.weight"] = np.zeros((3, 64), np.float32)
  del wrong["transformer.level_embed"]
  with pytest.raises(ValueError) as error:
    params_from_torch(wrong, CONFIG)
  message = str(error.value)
  assert "missing transformer.level_embed (for params/level_embed)" in message
  assert "unused surplus (1,)" in message
  assert "query_embed.weight has shape (3, 64), the network needs (12, 64)" in message


def test_the_tree_is_that_of_the_model():
  loaded = params_from_torch(state_dict(), CONFIG)
  images, tokens = np.zeros((1, 64, 64, 3), np.float32), np.full((1, 8), 5)
  predictions = jax.jit(Mvit(CONFIG).apply)(loaded, images, tokens, np.ones((1, 8), bool))
  assert predictions.logits.shape == (1, 12, 8)
  assert np.isfinite(predictions.boxes).all()
