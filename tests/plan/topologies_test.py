import pytest

from rkd_jax.machine.chips import CHIPS
from rkd_jax.plan import topologies


def test_a_topology_says_how_many_there_are():
  assert topologies.parse("v5e:4x4") == (CHIPS["v5e"], 16)
  assert topologies.parse("v5p:2x2x4")[1] == 16
  assert topologies.parse("h100:8") == (CHIPS["h100"], 8)


@pytest.mark.parametrize(
  "topology", ["v5e", "v5e:", "v9x:2x2", "h100:2x4", "v5e:0x4", "v5e:2x2x2x2"]
)
def test_a_name_nobody_knows_is_refused_with_those_there_are(topology):
  with pytest.raises(ValueError, match=r"v5e, v5p, v6e, h100, cpu.*as v5e:4x4"):
    topologies.parse(topology)
