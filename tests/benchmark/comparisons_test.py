"""Forms at toy size, and PyTorch beside ours with a torch that only seems to be there."""

import json
import sys
import types

import numpy as np
import pytest
from narrow import narrow

from rkd_jax.benchmark import comparisons, report
from rkd_jax.benchmark.measure import Ceilings
from rkd_jax.benchmark.report import Bench, Options
from rkd_jax.configs.coco import base as coco
from rkd_jax.configs.lvis import base as lvis
from rkd_jax.models.clip.model import ClipConfig


def test_every_form_is_measured_at_the_sizes_of_the_config(monkeypatch):
  monkeypatch.setattr(report, "measure", lambda *args: (None, {"seconds": 1.0}))
  monkeypatch.setattr(report, "measure_ceilings", lambda *args: Ceilings(1.0, 1.0))
  config = narrow(lvis.get_config())
  bench = Bench("toy", "float32", Options(canvas=(128, 128), inference_batches=(2,)))
  comparisons.forms(config, bench)
  names = [row["name"] for row in bench.rows]
  methods = ("auto", "gather", "einsum")
  # Proposals are pooled, RoIs of a training step with their gradient, detections for masks.
  cases = ("16 RoIs 3x3", "8 RoIs 3x3, gradient", "4 masks 4x4")
  assert names[:9] == [f"{case}: {method}" for case in cases for method in methods]
  # Maps of 32, 16 and 8 cells a side have 3 anchors a cell; 32 are kept of each.
  assert names[9:] == [
    "proposals (train): 96 to 16",
    "proposals (test): 96 to 16",
    "detections: 16 to 4",
  ]


class _Torch:
  """Half a second for everything; its torchvision may be broken."""

  broken = False

  def __init__(self, platform, dtype, budget):
    assert (platform, dtype) == ("cpu", "float32")

  def trunk(self, images):
    assert images.shape == (2, 64, 64, 3)
    return {"forward": {"seconds": 0.5}, "forward and backward": {"seconds": 1.0}}

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
  monkeypatch.setattr(comparisons, "_STAGE_BLOCKS", (1,))
  name = "rkd_jax.benchmark.torch_models"
  monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(TorchBenchmark=_Torch))

  def run(config):
    bench = Bench("toy", "float32", Options(canvas=(64, 64)))
    bench.row("inference", {"seconds": 0.125}, 1)
    comparisons.against_torch(narrow(config), bench, 2)
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


def test_clip_image_embedding(tmp_path, monkeypatch):
  small = ClipConfig(
    embed_dim=16, image_resolution=16, vision_layers=2, vision_width=64, vision_patch_size=8
  )
  monkeypatch.setitem(comparisons.PRESETS, "ViT-B/32", small)
  monkeypatch.setitem(sys.modules, "torch", None)
  path = tmp_path / "clip.json"
  options = Options(inference_batches=(2, 3), torch=True, output=str(path), steps=1, seconds=1e-6)
  rows = comparisons.clip("ViT-B/32", "bfloat16", options)
  content = json.loads(path.read_text())
  assert content["rows"] == rows and content["dtype"] == "bfloat16"
  names = [row.get("name", row.get("note", "").partition(":")[0]) for row in rows]
  missing = "torch is not measured"
  assert names == [missing, "ours, batch 2", "ours, batch 3"]
  # 5 tokens: patches, then per block qkv and output, attention both ways, and the MLP.
  tokens, width = 5, 64
  block = 12 * tokens * width**2 + 2 * tokens**2 * width
  flops = 2 * (4 * 8 * 8 * 3 * width + 2 * block + width * 16)
  assert rows[1]["flops"] == 2 * flops and rows[2]["flops"] == 3 * flops
  assert rows[2]["images_per_s"] == pytest.approx(3 / rows[2]["seconds"])


def test_a_tower_that_pytorchs_side_has_not():
  with pytest.raises(ValueError, match="RN50 is a ResNet"):
    comparisons.clip("RN50", "float32", Options(torch=True))
