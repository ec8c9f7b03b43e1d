import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.models.clip.model import PRESETS, Clip, ClipConfig, TextTransformer

TINY = {
  "embed_dim": 8,
  "image_resolution": 32,
  "vision_layers": (1, 1, 1),
  "vision_width": 8,
  "pooling": "average",
  "context_length": 6,
  "vocab_size": 20,
  "transformer_width": 16,
  "transformer_heads": 2,
  "transformer_layers": 1,
}
VIT = {"vision_layers": 1, "vision_patch_size": 8, "vision_heads": 2}
IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
TEXTS = np.array([[18, 3, 4, 19, 0, 0], [18, 5, 19, 0, 0, 0]], np.int32)
TOKENS = np.tile(TEXTS, (2, 1))


@functools.cache
def init(**changes):
  """A tiny model and variables filled by NumPy: initialising compiles for many seconds."""
  model = Clip(ClipConfig.from_dict(TINY | changes))
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES, TOKENS)
  rng = np.random.default_rng(0)

  def fill(leaf):
    if leaf.ndim < 2:
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    scale = np.prod(leaf.shape[:-1]) ** -0.5
    return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

  variables = jax.tree.map(fill, shapes)
  variables["params"]["logit_scale"] = np.log(np.float32(model.config.initial_logit_scale))
  return model, variables


@functools.cache
def compiled(model, method="__call__"):
  return jax.jit(lambda variables, *inputs: model.apply(variables, *inputs, method=method))


def test_published_sizes():
  """Parameter counts of ViT-B/32 and RN50 as published."""
  for name, count in (("ViT-B/32", 151_277_313), ("RN50", 102_007_137)):
    config = PRESETS[name]
    size = config.image_resolution
    shapes = jax.eval_shape(
      Clip(config).init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
      jax.ShapeDtypeStruct((1, 77), jnp.int32),
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize(
  "changes",
  [{}, {"pooling": "attention"}, VIT],
)
def test_towers_share_the_embedding_space(changes):
  model, variables = init(**changes)
  image, text, scale = compiled(model)(variables, IMAGES, TOKENS)
  assert image.shape == text.shape == (4, 8)
  assert float(scale) == pytest.approx(1 / 0.07)
  assert np.isfinite(image).all() and np.ptp(image) > 0


def test_training_updates_batch_statistics_and_evaluation_does_not():
  model, variables = init()
  train = jax.jit(lambda v: model.apply(v, IMAGES, TOKENS, True, mutable=["batch_stats"]))
  (trained, *_), updated = train(variables)
  before, after = variables["batch_stats"]["visual"], updated["batch_stats"]["visual"]
  assert not np.allclose(before["bn1"]["mean"], after["bn1"]["mean"])
  evaluated, *_ = compiled(model)(variables, IMAGES, TOKENS)
  assert not np.allclose(trained, evaluated)


def test_logit_scale_stops_at_100_and_can_come_down_again():
  model, variables = init(initial_logit_scale=150.0)

  def scale(value):
    params = variables["params"] | {"logit_scale": value}
    return model.apply(variables | {"params": params}, IMAGES, TOKENS)[2]

  value, slope = jax.jit(jax.value_and_grad(scale))(variables["params"]["logit_scale"])
  assert float(value) == pytest.approx(100)
  assert float(slope) == pytest.approx(100)


def test_bfloat16_computes_in_half_and_stores_in_float32():
  model, variables = init(dtype="bfloat16", pooling="attention")
  image, text, _ = compiled(model)(variables, IMAGES, TOKENS)
  assert image.dtype == text.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  exact, *_ = compiled(Clip(dataclasses.replace(model.config, dtype="float32")))(
    variables, IMAGES, TOKENS
  )
  assert np.abs(image - exact).max() < 0.05 * np.abs(exact).max()


def test_config_errors_name_the_key():
  with pytest.raises(ValueError, match=r"'visionwidth'.*vision_width"):
    ClipConfig.from_dict(TINY | {"visionwidth": 3})
  with pytest.raises(ValueError, match="patch size"):
    ClipConfig.from_dict(TINY | {"vision_layers": 2})


@pytest.mark.parametrize("tower", [{}, VIT])
def test_images_of_another_size_are_refused(tower):
  model, variables = init(**tower)
  with pytest.raises(ValueError, match=r"\(16, 32\) pixels, this tower expects \(32, 32\)"):
    model.apply(variables, IMAGES[:, :16], TOKENS)


def test_an_unknown_pooling_is_refused():
  with pytest.raises(ValueError, match="pooling is 'max'"):
    init(pooling="max")


@functools.cache
def encoder():
  """A compiled text tower with random parameters."""
  model = TextTransformer(ClipConfig.from_dict(TINY))
  shapes = jax.eval_shape(model.init, jax.random.key(0), TEXTS)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
  return jax.jit(functools.partial(model.apply, params))


def test_what_follows_the_end_mark_does_not_matter():
  padded = TEXTS.copy()
  padded[1, 3:] = [7, 19, 2]
  np.testing.assert_allclose(encoder()(padded), encoder()(TEXTS), rtol=1e-5)


def test_word_order_matters():
  swapped = TEXTS.copy()
  swapped[0, 1:3] = swapped[0, 2:0:-1]
  assert not np.allclose(encoder()(swapped)[0], encoder()(TEXTS)[0], rtol=1e-4)


def test_rows_may_be_shorter_than_the_context_but_not_longer():
  np.testing.assert_allclose(encoder()(TEXTS[:, :4]), encoder()(TEXTS), rtol=1e-5)
  with pytest.raises(ValueError, match="have 7 entries, the model has 6"):
    encoder()(np.zeros((1, 7), np.int32))
