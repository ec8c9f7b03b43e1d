"""Calls that are on several devices at the same time, whatever the threads' luck."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax


def at_once(monkeypatch, model, name, count):
  """Makes `count` calls of model.name(variables, ...) wait for each other.

  Returns:
    The set of the devices of their variables, filled by the calls.
  """
  function, barrier, used = getattr(model, name), threading.Barrier(count, timeout=60), set()

  def wrapped(variables, *inputs):
    used.update(jax.tree.leaves(variables)[0].devices())
    barrier.wait()
    return function(variables, *inputs)

  monkeypatch.setattr(model, name, wrapped)
  return used


def run(function, *arguments):
  """`function` of each, all in threads of their own; results in their order."""
  with ThreadPoolExecutor(len(arguments[0])) as threads:
    return list(threads.map(function, *arguments))
