"""All programs of the published detectors, narrow, for the CPUs of this machine or --topology.

Whether a compiler takes an operation does not depend on the sizes; published sizes are compiled by
`python -m rkd_jax.plan`.
"""

import jax
import pytest
from narrow import narrow

from rkd_jax.configs.coco import recommended as coco
from rkd_jax.configs.lvis import recommended as lvis
from rkd_jax.machine.chips import CHIPS
from rkd_jax.plan import programs, report, topologies

CONFIGS = {"coco": coco, "lvis": lvis}
# What of them is compiled for CPUs as well.
ON_CPU = {("lvis", "box"), ("coco", "image"), ("coco", "inference")}


@pytest.fixture(scope="module")
def topology(request):
  return request.config.getoption("topology")


@pytest.fixture(scope="module")
def devices(topology):
  """Four chips; without --topology, four of the fake CPU devices of the tests."""
  return topologies.devices(topology) if topology else jax.devices()[:4]


def config_of(family, topology):
  config = narrow(CONFIGS[family].get_config())
  config.loss.pseudo_agreement.on = True
  if topology:
    config.model.dtype = "bfloat16"
  return config


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("program", programs.PROGRAMS)
def test_compiles(family, program, topology, devices):
  if not topology and (family, program) not in ON_CPU:
    pytest.skip("much like its neighbours: `make accelerators` compiles it")
  config = config_of(family, topology)
  lowered, shape = programs.lower(config, program, devices, 0, (128, 192))
  assert shape["classes"] == {"coco": 80, "lvis": 1203}[family]
  chip = topologies.parse(topology)[0] if topology else CHIPS["cpu"]
  figures = report.describe(lowered.compile(), chip)
  memory = figures["memory"]
  assert memory["total"] > memory["arguments"] >= 0
  if program != "create":
    assert figures["flops"] or chip.platform == "gpu"
    # Devices wait for each other between loops only; a CPU's convolutions have loops of their own.
    waits = {row["loop"].partition(":")[0] for row in figures["collectives"] if row["loop"]}
    assert waits <= ({"models/backbones/layers.py"} if chip.platform == "cpu" else set())
  if program in ("box", "image"):
    assert any(row["kind"] == "all-reduce" for row in figures["collectives"])
  page = report.page(f"{family} {program}", figures, chip)
  assert page.startswith(f"{family} {program}\n  memory")


def test_a_batch_must_divide_over_the_devices():
  with pytest.raises(ValueError, match="A batch of 6 images does not divide over 4 devices"):
    programs.lower(config_of("coco", ""), "box", jax.devices()[:4], batch_size=6)


def test_a_vocabulary_may_be_of_any_size():
  config = config_of("coco", "")
  lowered, shape = programs.lower(config, "inference", jax.devices()[:4], 0, (64, 64), classes=70)
  assert shape["classes"] == 70 and "x71xf32" in lowered.as_text()


def test_programs_are_those_that_the_schedule_needs():
  assert programs.programs_of(coco.get_config()) == ("box", "image", "inference", "create")
