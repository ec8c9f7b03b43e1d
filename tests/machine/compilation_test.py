"""Tests of `rkd_jax.machine.compilation`."""

import jax
import jax.numpy as jnp
import pytest

from rkd_jax.machine.compilation import matmul_options


@pytest.fixture(autouse=True)
def fresh():
  matmul_options.cache_clear()
  yield
  matmul_options.cache_clear()


def test_products_are_not_given_to_ynnpack():
  x = jnp.ones((512, 512))

  def text(**settings):
    return jax.jit(lambda x: x @ x, **settings).lower(x).compile().as_text()

  assert "__ynn_fusion" in text()
  assert "__ynn_fusion" not in text(compiler_options=matmul_options("cpu"))


def test_other_platforms_are_asked_for_nothing():
  assert matmul_options("tpu") == {}


def test_an_option_that_is_not_known_is_left_out(monkeypatch):
  jit = jax.jit
  monkeypatch.setattr(jax, "jit", lambda f, compiler_options: jit(f, compiler_options={"none": ""}))
  assert matmul_options("cpu") == {}
