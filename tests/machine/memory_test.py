"""Tests of `rkd_jax.machine.memory`."""

import ctypes
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from rkd_jax.machine import memory


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
  memory.return_memory_after_compiling.cache_clear()
  yield calls
  for listener in listeners:
    jax.monitoring.unregister_event_duration_listener(listener)
  memory.return_memory_after_compiling.cache_clear()


def test_freed_memory_is_returned_once_after_a_program_was_compiled(trims, monkeypatch):
  monkeypatch.setattr(memory, "_SECONDS", 0.0)
  memory.return_memory_after_compiling()
  memory.return_memory_after_compiling()
  x = jnp.ones(3)
  trims.clear()
  # The constant is new to this process: no compiled program is found again.
  program = jax.jit(lambda x: x * 1234567.0)
  program(x)
  assert trims == [0]
  program(x)
  assert trims == [0]


def test_small_programs_are_not_worth_it(trims):
  memory.return_memory_after_compiling()
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
  memory.return_memory_after_compiling.cache_clear()
  memory.return_memory_after_compiling()
  memory.return_memory_after_compiling.cache_clear()
