"""Tests of `rkd_jax.machine.compilation`."""

import ctypes
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from rkd_jax.machine import compilation
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


@pytest.fixture
def trims(monkeypatch):
  """The arguments of `malloc_trim`, whose C library is a stand-in."""
  calls, listeners = [], []
  register = jax.monitoring.register_event_duration_secs_listener
  monkeypatch.setattr(
    jax.monitoring,
    "register_event_duration_secs_listener",
    lambda listener: (listeners.append(listener), register(listener)),
  )
  library = types.SimpleNamespace(malloc_trim=calls.append)
  monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
  compilation.return_memory_after_compiling.cache_clear()
  yield calls
  for listener in listeners:
    jax.monitoring.unregister_event_duration_listener(listener)
  compilation.return_memory_after_compiling.cache_clear()


def test_freed_memory_is_returned_once_after_a_program_was_compiled(trims, monkeypatch):
  monkeypatch.setattr(compilation, "_SECONDS", 0.0)
  compilation.return_memory_after_compiling()
  compilation.return_memory_after_compiling()
  x = jnp.ones(3)
  trims.clear()
  # The constant is new to this process: no compiled program is found again.
  program = jax.jit(lambda x: x * 1234567.0)
  program(x)
  assert trims == [0]
  program(x)
  assert trims == [0]


def test_small_programs_are_not_worth_it(trims):
  compilation.return_memory_after_compiling()
  jax.jit(lambda x: x * 7654321.0)(jnp.ones(3))
  assert not trims


@pytest.mark.parametrize(
  "platform, library", [("linux", object()), ("win32", types.SimpleNamespace(malloc_trim=print))]
)
def test_other_c_libraries_are_left_alone(monkeypatch, platform, library):
  register = "register_event_duration_secs_listener"
  monkeypatch.setattr(jax.monitoring, register, lambda listener: pytest.fail("listens"))
  monkeypatch.setattr(sys, "platform", platform)
  monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
  compilation.return_memory_after_compiling.cache_clear()
  compilation.return_memory_after_compiling()
  compilation.return_memory_after_compiling.cache_clear()
