import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rkd_jax.configs import common
from rkd_jax.train.optimizer import frozen_mask, make_optimizer, make_schedule

# Learning rates of the published 1x schedule, logged by running the reference trainer.
REFERENCE_RATES = {
  0: 2e-05,
  1: 3.998e-05,
  2: 5.996e-05,
  10: 0.0002198,
  100: 0.002018,
  500: 0.01001,
  999: 0.01998002,
  1000: 0.02,
  1001: 0.02,
  59_999: 0.02,
  60_000: 0.002,
  60_001: 0.002,
  79_999: 0.002,
  80_000: 0.0002,
  89_999: 0.0002,
}


def test_default_schedule_is_the_reference_one():
  schedule = make_schedule(common.sgd(), 90_000)
  steps = jnp.array(list(REFERENCE_RATES))
  rates = jax.vmap(schedule)(steps)
  np.testing.assert_allclose(rates, list(REFERENCE_RATES.values()), rtol=2e-6)


def test_cosine_rises_to_the_peak_then_falls_to_zero():
  config = common.adamw(learning_rate=0.4, warmup_steps=10)
  schedule = make_schedule(config, 110)
  assert float(schedule(0)) == pytest.approx(0.4 * config.warmup_factor)
  assert float(schedule(5)) == pytest.approx(0.4 * (0.5 + 0.5 * config.warmup_factor))
  assert float(schedule(10)) == pytest.approx(0.4)
  assert float(schedule(35)) == pytest.approx(0.4 * (1 + np.cos(np.pi / 4)) / 2)
  assert float(schedule(60)) == pytest.approx(0.2)
  assert float(schedule(110)) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("name", ["steps", "cosine"])
def test_no_warmup_starts_at_the_peak(name):
  config = common.sgd()
  config.update(schedule=name, warmup_steps=0)
  assert float(make_schedule(config, 100)(0)) == pytest.approx(config.learning_rate)


def test_unknown_names_are_refused():
  config = common.sgd()
  config.schedule = "linear"
  with pytest.raises(ValueError, match=r"schedule is 'linear'.*'steps' or 'cosine'"):
    make_schedule(config, 10)
  config = common.sgd()
  config.name = "adam"
  with pytest.raises(ValueError, match=r"name is 'adam'.*'sgd' or 'adamw'"):
    make_optimizer(config, 10, {"w": False})


def _run(optimizer, params, gradients):
  """The parameters after each of the gradients."""
  state = optimizer.init(params)
  history = []
  for gradient in gradients:
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    history.append(params)
  return history, state


def test_sgd_is_the_torch_rule():
  # torch: d = g + decay * p;  b = momentum * b + d;  p = p - rate * b.  The rate is not
  # in the buffer, so where the schedule drops the whole step drops at once.
  config = common.sgd()
  config.update(learning_rate=0.5, momentum=0.9, weight_decay=0.1, warmup_steps=2, boundaries=(4,))
  rates = [0.5 * 0.001, 0.5 * 0.5005, 0.5, 0.5, 0.05, 0.05]
  rng = np.random.default_rng(0)
  weight = rng.normal(size=3).astype(np.float32)
  gradients = rng.normal(size=(len(rates), 3)).astype(np.float32)
  optimizer = make_optimizer(config, 6, {"bias": False})
  history, _ = _run(optimizer, {"bias": jnp.asarray(weight)}, [{"bias": g} for g in gradients])
  expected, buffer = weight.astype(np.float64), np.zeros(3)
  for rate, gradient, got in zip(rates, gradients, history, strict=True):
    buffer = 0.9 * buffer + gradient + 0.1 * expected
    expected = expected - rate * buffer
    np.testing.assert_allclose(got["bias"], expected, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_gradient_over_all_trained_parameters():
  config = common.sgd()
  config.update(learning_rate=1.0, weight_decay=0.0, warmup_steps=0, clip_norm=1.0)
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1), "frozen": jnp.zeros(1)}
  frozen = {"a": False, "b": False, "frozen": True}
  gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0]), "frozen": jnp.array([100.0])}
  ((params,), _) = _run(make_optimizer(config, 10, frozen), params, [gradient])
  np.testing.assert_allclose(params["a"], [-0.6], rtol=1e-6)
  np.testing.assert_allclose(params["b"], [-0.8], rtol=1e-6)


def test_adamw_decays_matrices_only():
  config = common.adamw(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  zero = jax.tree.map(jnp.zeros_like, params)
  optimizer = make_optimizer(config, 100, {"kernel": False, "bias": False})
  ((params,), _) = _run(optimizer, params, [zero])
  np.testing.assert_allclose(params["kernel"], 0.95, rtol=1e-6)
  np.testing.assert_array_equal(params["bias"], 1.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_parameters_keep_still_and_have_no_state(name):
  config = common.sgd()
  config.update(name=name, learning_rate=0.1, weight_decay=0.1, warmup_steps=0)
  params = {"stem": {"kernel": jnp.ones((3, 5))}, "head": {"kernel": jnp.ones((2, 2))}}
  frozen = frozen_mask(params, ("stem/.*",))
  assert frozen == {"stem": {"kernel": True}, "head": {"kernel": False}}
  gradient = jax.tree.map(jnp.ones_like, params)
  history, state = _run(make_optimizer(config, 10, frozen), params, [gradient] * 3)
  np.testing.assert_array_equal(history[-1]["stem"]["kernel"], params["stem"]["kernel"])
  assert np.all(history[-1]["head"]["kernel"] < 1.0)
  shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
  assert (2, 2) in shapes
  assert (3, 5) not in shapes


def test_frozen_matches_whole_paths():
  params = {"stem": 0.0, "stem_norm": 0.0}
  assert frozen_mask(params, ("stem",)) == {"stem": True, "stem_norm": False}


def test_frozen_pattern_without_a_match_is_refused():
  with pytest.raises(ValueError, match=r"'bakbone/\.\*' matches no parameter.*'backbone/kernel'"):
    frozen_mask({"backbone": {"kernel": 0.0}}, ("backbone/.*", "bakbone/.*"))
