"""The benchmark of an image tower: its arithmetic by hand, and a tower that it does not compare."""

import json
import sys

import pytest

from rkd_jax.benchmark import clip
from rkd_jax.benchmark.report import Options
from rkd_jax.models.clip.model import ClipConfig


def test_clip_image_embedding(tmp_path, monkeypatch):
  small = ClipConfig(
    embed_dim=16, image_resolution=16, vision_layers=2, vision_width=64, vision_patch_size=8
  )
  monkeypatch.setitem(clip.PRESETS, "ViT-B/32", small)
  monkeypatch.setitem(sys.modules, "torch", None)
  path = tmp_path / "clip.json"
  options = Options(inference_batches=(2, 3), torch=True, output=str(path), steps=1, seconds=1e-6)
  rows = clip.run("ViT-B/32", "bfloat16", options)
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
    clip.run("RN50", "float32", Options(torch=True))
