"""Both sides of the comparison in one table, with a PyTorch that only seems to be there."""

import sys
import types

import numpy as np
import pytest
from narrow import narrow

from rkd_jax.benchmark import report
from rkd_jax.benchmark.measure import Ceilings
from rkd_jax.benchmark.report import Bench, Options
from rkd_jax.benchmark.torch import compare
from rkd_jax.configs.coco import base as coco
from rkd_jax.configs.lvis import base as lvis


class _Torch:
  """Half a second for everything; its torchvision may be broken."""

  broken = False

  def __init__(self, platform, dtype, budget):
    assert (platform, dtype) == ("cpu", "float32")

  def trunk(self, images):
    assert images.shape == (2, 64, 64, 3)
    return {"seconds": 0.5}, {"seconds": 1.0}

  def detector(self, config, images, training_images, boxes):
    if self.broken:
      raise AttributeError("nms")
    assert images.shape == (1, 3, 64, 64) and training_images.shape == (2, 3, 64, 64)
    assert (boxes[..., 2:] - boxes[..., :2] > 15).all() and np.ptp(boxes) < 64
    return "fasterrcnn", {"seconds": 0.5}, {"seconds": 0.5}


@pytest.fixture
def compared(monkeypatch):
  """Compares a config; returns the rows."""
  monkeypatch.setattr(report, "measure", lambda *args: (None, {"seconds": 0.25}))
  monkeypatch.setattr(report, "measure_ceilings", lambda *args: Ceilings(1.0, 1.0))
  monkeypatch.setattr(compare, "_STAGE_BLOCKS", (1,))
  name = "rkd_jax.benchmark.torch.models"
  monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(TorchBenchmark=_Torch))

  def run(config):
    bench = Bench("toy", "float32", Options())
    bench.row("inference", {"seconds": 0.125}, 1)
    compare.compare(narrow(config), bench, 1, 2, (64, 64))
    return [(row.get("name", row.get("note")), row.get("images_per_s")) for row in bench.rows[1:]]

  return run


TRUNK = [
  ("ours, forward", 8),
  ("ours, forward and backward", 8),
  ("torch, forward", 4),
  ("torch, forward and backward", 2),
]


def test_an_fpn_is_compared_with_torchvisions(compared):
  assert compared(lvis.get_config()) == [
    *TRUNK,
    ("ours, inference, batch 1", 8),
    ("fasterrcnn, inference", 2),
    ("fasterrcnn, step", 4),
  ]


def test_what_torchvision_lacks_is_said(compared, monkeypatch):
  *rows, (note, _) = compared(coco.get_config())
  assert rows == TRUNK and note.startswith("torchvision has no detector of this kind (C4)")
  monkeypatch.setattr(_Torch, "broken", True)
  assert compared(lvis.get_config())[-1] == (
    "torchvision is not measured: AttributeError: nms",
    None,
  )
