"""The benchmark of the input pipeline: its stages are those of training, whatever the records."""

import io
import json
import sys
import types

import jax
import numpy as np
import pytest
import tiny_coco
from PIL import Image

from rkd_jax.benchmark import inputs
from rkd_jax.benchmark.report import Options
from rkd_jax.configs import common
from rkd_jax.configs.lvis import rkd_ils_weight_transfer_8x as lvis
from rkd_jax.inputs.batching import train_batches
from rkd_jax.inputs.plan import make_plan
from rkd_jax.inputs.transforms import View

STAGES = ["decode", "resize", "flip, boxes, pad, stack", "from record to batch"]
LAST = ["transfer to device"]
ONCE = {"steps": 1, "seconds": 1e-6}


@pytest.fixture
def small(monkeypatch):
  """Four made-up images of 40x60 pixels."""
  for name, value in (("_IMAGES", 4), ("_HEIGHT", 40), ("_WIDTH", 60), ("_PICTURES", 2)):
    monkeypatch.setattr(inputs, name, value)


def _config(**changes):
  c = lvis.get_config("root=/nowhere")
  c.data.box.update(canvas=(64, 96), short_sides=(32, 40), max_side=90, scale_groups=2)
  c.data.box.update(batch_size=2, max_vertices=64)
  c.data.image.update(canvas=(32, 96), short_sides=(32,), max_side=90, batch_size=2)
  c.update(changes)
  return c


def test_made_up_records_give_batches_of_every_kind(small):
  config = _config()
  source = inputs.MadeUpSource(config)
  image = Image.open(io.BytesIO(source[0].image))
  assert (image.format, image.size, len(source)) == ("JPEG", (60, 40), 4)
  plan = make_plan(config, dict.fromkeys(("box", "image"), source))
  batches = {kind: b for _, kind, b in train_batches(plan, 0, 2)}
  box, image = batches["box"], batches["image"]
  assert box.ground_truth.valid.sum() > 2 and (box.ground_truth.owners >= 0).any()
  assert box.regions.valid.all() and image.pseudo_boxes.valid.sum() == 2
  # In a 24-gon around each box.
  first = box.ground_truth.vertices[0, 0][box.ground_truth.owners[0, 0] == 0]
  np.testing.assert_allclose(
    [*first.min(0), *first.max(0)], box.ground_truth.boxes[0, 0], atol=1e-3
  )


def test_without_records_nothing_is_read_and_the_table_says_so(small, tmp_path, capsys):
  path = tmp_path / "bench.json"
  config = _config()
  inputs.run(config, Options(output=str(path), **ONCE))
  out = capsys.readouterr().out
  assert "made up, 60x40 JPEG of quality 90 in memory" in out and "no data set 'lvis_ovd" in out
  content = json.loads(path.read_text())
  rows = content["rows"]
  names = [row["name"] for row in rows]
  assert names == 2 * (STAGES + LAST) + ["one core", "16 cores, if they scaled"]
  assert "image batches of 2, 32x96" in rows[5]["section"]
  for row in rows[:-2]:
    assert row["images_per_s"] == pytest.approx(1 / row["cpu_seconds_per_image"])
  # A batch of each in turn.
  both = 2 / (rows[3]["cpu_seconds_per_image"] + rows[8]["cpu_seconds_per_image"])
  assert rows[-2]["images_per_s"] == pytest.approx(both)
  assert rows[-1]["images_per_s"] == pytest.approx(16 * both)
  assert rows[9]["bytes"] > 32 * 96 * 3


def test_built_records_are_read(tmp_path, monkeypatch, capsys):
  tiny_coco.build_data(tmp_path)
  monkeypatch.setattr(inputs, "_IMAGES", 4)
  config = tiny_coco.get_config(str(tmp_path))
  config.data.box.canvas = (32, 64)
  rows = inputs.run(config, Options(**ONCE))
  assert [row["name"] for row in rows[:-2]] == ["read", *STAGES, *LAST]
  assert f"records: coco_json/plain in {tmp_path}" in capsys.readouterr().out


def test_the_stages_make_the_batches_of_training(small, monkeypatch):
  """What is put on the device is what training would put there."""
  config, seen = _config(), []
  monkeypatch.setattr(jax, "device_put", lambda batch: seen.append(batch) or batch)
  inputs.run(config, Options(**ONCE))
  source = inputs.MadeUpSource(config)
  plan = make_plan(config, dict.fromkeys(("box", "image"), source))
  # Two batches of two images are measured; of the box steps those on the canvas of the first.
  steps = [inputs._Batches(plan, kind).steps[-1] for kind in ("box", "image")]
  for measured, step in zip((seen[0], seen[-1]), steps, strict=True):
    ((_, _, expected),) = train_batches(plan, step, step + 1)
    jax.tree.map(np.testing.assert_array_equal, measured, expected)


def test_without_torch_a_line_says_so(small, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "torch", None)
  inputs.run(_config(), Options(torch=True, **ONCE))
  assert capsys.readouterr().out.count("torch is not measured: ModuleNotFoundError") == 2


def test_only_detectors_are_measured():
  with pytest.raises(ValueError, match="trains task 'clip'"):
    inputs.run(common.clip(), Options())


def test_images_are_resized_mirrored_and_padded_with_their_boxes():
  """By PyTorch's loader, where torch is installed, on a picture of two colours."""
  pytest.importorskip("torch")
  pixels = np.zeros((8, 12, 3), np.uint8)
  pixels[:, :6] = 200
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  record = types.SimpleNamespace(
    image=file.getvalue(), width=12, height=8, boxes=np.array([[0, 0, 6, 8]], np.float32)
  )
  views = [View((8, 12), (4, 6), flip=False), View((8, 12), (4, 6), flip=True)]
  spec = types.SimpleNamespace(canvas=(6, 10), batch_size=2)
  ((images, boxes),) = inputs.torch_loader([record, record], views, spec)
  assert images.shape == (2, 6, 10, 3) and not images[:, 4:].any() and not images[:, :, 6:].any()
  assert images[0, 0, :, 0].tolist()[:2] == [200, 200] and not images[0, 0, 4:].any()
  assert images[1, 0, :, 0].tolist()[4:6] == [200, 200] and not images[1, 0, :2].any()
  assert [own.tolist() for own in boxes] == [[[0, 0, 3, 4]], [[3, 0, 6, 4]]]
