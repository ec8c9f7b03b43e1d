"""SIGTERM to this process, and garbage collection."""

import gc
import os
import signal

from rkd_jax.machine.interruptions import short_collections, stop_signal


def test_a_signal_is_seen_at_the_next_step_and_its_handler_goes_back():
  before = signal.getsignal(signal.SIGTERM)
  with stop_signal() as stop:
    assert not stop(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop(2) and stop(2)
  assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_there_is_left_alone_meanwhile():
  with short_collections():
    assert gc.get_freeze_count() > 0
  assert gc.get_freeze_count() == 0
