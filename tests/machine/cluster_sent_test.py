"""What the processes of a run send to the first."""

import json

import processes
import pytest

from rkd_jax.machine.cluster import sent_to_first

_SCRIPT = """
import json, sys
import jax
import ml_collections
from rkd_jax.machine import cluster

hosts = ml_collections.ConfigDict(dict(start_seconds=120, timeout_seconds=20))
coordinator, *numbers = (argument.partition("=")[2] for argument in sys.argv[1:])
with cluster.joined(hosts, coordinator, *map(int, numbers)):
  me = jax.process_index()
  sent = cluster.sent_to_first({"from": me, "big": bytes([me]) * (1, 5_000_000, 0)[me]})
  print(json.dumps([[one["from"], len(one["big"]), sorted(set(one["big"]))] for one in sent]))
"""


@pytest.mark.hosts
def test_the_first_is_sent_what_the_others_have(tmp_path):
  """One gives more than goes at once."""
  done = processes.run(tmp_path / "logs", "-c", _SCRIPT, count=3)
  assert [process.returncode for process in done] == [0, 0, 0], done[0].stderr
  sent = [json.loads(process.stdout.splitlines()[-1]) for process in done]
  assert sent == [[[1, 5_000_000, [1]], [2, 0, []]], [], []]


def test_one_process_is_sent_nothing():
  assert sent_to_first("something") == []
