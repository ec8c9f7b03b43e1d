"""Stages of a detector do the arithmetic of the whole."""

import jax
import jax.numpy as jnp
import pytest
from narrow import OPTIONS, check_stages, narrow, sections

from rkd_jax.benchmark import detector, measure, report
from rkd_jax.benchmark.measure import Ceilings
from rkd_jax.benchmark.report import Options
from rkd_jax.benchmark.run import run
from rkd_jax.configs.coco import rkd_ils_weight_transfer as coco_weight_transfer
from rkd_jax.configs.lvis import rkd_ils_weight_transfer as lvis_weight_transfer


def _trace(function, args, budget, ceilings=None, carry=False):
  """In place of `measure`: compiles nothing, and outputs are zeros."""
  del budget, ceilings, carry
  traced = jax.jit(function).trace(*args)
  flops = measure.matmul_flops(traced.jaxpr)
  outputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), traced.out_info)
  return outputs, {"flops": flops, "seconds": 1.0 + flops, "cpu_seconds": 1.0}


@pytest.mark.parametrize(
  "published, programs",
  [(coco_weight_transfer, ["inference"]), (lvis_weight_transfer, ["box"])],
)
def test_stages_are_the_whole(published, programs, monkeypatch):
  monkeypatch.setattr(detector, "measure", _trace)
  monkeypatch.setattr(report, "measure", _trace)
  monkeypatch.setattr(report, "measure_ceilings", lambda *args: Ceilings(1.0, 1.0))
  rows = run(narrow(published.get_config()), Options(programs=programs, **OPTIONS))
  found = sections(rows)
  assert [name.removesuffix(" step") for name in found] == programs
  for name, section in found.items():
    assert section[0]["name"] == name
    check_stages(section)
    has_masks = any(row["name"] == "masks" for row in section)
    assert has_masks == (published is lvis_weight_transfer and name != "image step")
