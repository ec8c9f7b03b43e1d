"""Tests of `rkd_jax.machine.target`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from narrow import narrow

from rkd_jax.benchmark import synthetic
from rkd_jax.configs.coco import rkd
from rkd_jax.machine import target
from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.models.detector import rcnn
from rkd_jax.runs.state import create_state
from rkd_jax.train.optimizer import frozen_mask, make_optimizer
from rkd_jax.train.step import detector_loss, make_step


def _name(x, kind):
  """Text is static, so that it says what was traced."""
  found = target.current()
  return x * (found.count if found.platform == kind else 0)


def test_each_target_has_its_own_program():
  programs = [
    jax.jit(compiled_for(_name, Target("tpu", count)), static_argnames="kind") for count in (2, 3)
  ]
  for _ in range(2):
    assert [int(program(jnp.int32(1), kind="tpu")) for program in programs] == [2, 3]
  assert programs[0]._cache_size() == 1


def test_the_innermost_target_counts_and_ends_with_its_function():
  inner = compiled_for(target.current, Target("tpu"))
  outer = compiled_for(lambda: (target.current(), inner(), target.current()), Target("gpu", 4))
  assert outer() == (Target("gpu", 4), Target("tpu", 1), Target("gpu", 4))
  assert target.current() == Target("cpu", 8)


def test_an_error_ends_the_target():
  def fail():
    raise ValueError("no")

  with pytest.raises(ValueError, match="no"):
    compiled_for(fail, Target("tpu"))()
  assert target.current() == Target("cpu", 8)


@pytest.fixture
def trace(monkeypatch):
  """Traces a training step of a narrow detector whose images suit no CPU's caches together."""
  monkeypatch.setattr("rkd_jax.models.detector.rcnn._PIXELS", 1)
  config, rng = narrow(rkd.get_config()), np.random.default_rng(0)
  params = rcnn.abstract_params(config)
  frozen = frozen_mask(params, ())
  optimizer = make_optimizer(config.optimizer, 10, frozen)
  step = make_step(detector_loss(rcnn.build(config), config.loss), optimizer, frozen)
  state = jax.eval_shape(
    lambda params: create_state(lambda _: (params, {}), optimizer, jax.random.key(0)), params
  )
  args = (state, synthetic.vocabulary(config, 5, rng))
  args += (synthetic.batch(config, "box", 2, (128, 128), 5, rng), jax.random.key(0))
  return lambda target: jax.jit(compiled_for(step, target), static_argnames="kind").trace(
    *args, kind="box"
  )


def _loops(traced, platform):
  return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")


def test_a_step_for_an_accelerator_has_no_loop_of_the_cpu_s(trace):
  """Whatever this host is: parts, recomputation and products of taps are a single CPU's alone."""
  cpu, tpu = trace(Target("cpu")), trace(Target("tpu"))
  assert "remat" in str(cpu.jaxpr) and "remat" not in str(tpu.jaxpr)
  # Those of choosing proposals, on every platform, and of pooling RoIs, forth and back.
  own = str(tpu.jaxpr).count(" while[") + 2
  assert _loops(tpu, "tpu") == _loops(tpu, "cuda") == own < _loops(tpu, "cpu") < _loops(cpu, "cpu")
  assert "remat" not in str(trace(Target("cpu", 2)).jaxpr)
