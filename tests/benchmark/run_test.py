"""The benchmark at toy size: what it counts, what it writes, and what it can do without."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.benchmark import clip, detector, measure, synthetic
from rkd_jax.benchmark import run as run_lib
from rkd_jax.benchmark.measure import Budget, Ceilings
from rkd_jax.benchmark.report import Report
from rkd_jax.benchmark.run import Options, run
from rkd_jax.benchmark.torch import compare as against_torch
from rkd_jax.configs.coco import base as coco
from rkd_jax.configs.coco import rkd_ils_weight_transfer as coco_weight_transfer
from rkd_jax.configs.lvis import rkd_ils_weight_transfer as lvis_weight_transfer
from rkd_jax.models.clip.model import ClipConfig
from rkd_jax.models.detector import rcnn
from rkd_jax.train.optimizer import frozen_mask

REPOSITORY = Path(__file__).parents[2]
ONCE = Budget(steps=1, seconds=0.0)
# With torch, which is optional.
MISSING = (
  *("tensorflow", "tensorflow_datasets", "tensorflow_metadata", "grain", "array_record", "pyarrow"),
  *("orbax", "orbax.checkpoint", "etils", "pycocotools", "hotcoco", "PIL", "scipy", "matplotlib"),
  *("tensorboardX", "instant_clip_tokenizer", "ftfy", "tqdm", "torch", "torchvision"),
)


def _flops(function, *shapes):
  return measure.matmul_flops(jax.make_jaxpr(function)(*(jnp.zeros(s) for s in shapes)))


def test_flops_of_products_count_contractions_and_loops():
  assert _flops(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
  assert _flops(lambda a: jax.lax.map(lambda x: x @ x, a), (4, 3, 3)) == 4 * 2 * 27
  assert _flops(lambda a: jax.jit(lambda x: jax.nn.relu(x @ x))(a) + a, (3, 3)) == 2 * 27
  larger = lambda a: jax.lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, a)  # noqa: E731
  assert _flops(larger, (3, 3)) == 2 * 2 * 27


def test_flops_of_a_strided_convolution_and_its_gradients_are_equal():
  def convolve(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=dimensions
    )

  shapes = (2, 8, 8, 3), (3, 3, 3, 16)
  forward = 2 * (2 * 4 * 4 * 16) * (3 * 3 * 3)
  assert _flops(convolve, *shapes) == forward
  for argument in (0, 1):
    gradient = jax.grad(lambda *args: jnp.sum(convolve(*args)), argument)
    assert _flops(gradient, *shapes) == 2 * forward  # the convolution itself is traced too


def test_the_nearer_ceiling_bounds():
  ceilings = Ceilings(flops_per_s=100.0, bytes_per_s=10.0)
  assert ceilings.compare(50.0, 1.0, 1.0) == {"roofline_share": 0.5, "bound": "compute"}
  assert ceilings.compare(50.0, 8.0, 1.0) == {"roofline_share": 0.8, "bound": "memory"}


def test_a_measurement_has_its_steps_or_its_time():
  calls = []
  figures = measure.timed(lambda: calls.append(1), lambda: None, Budget(3, 60.0))
  assert figures["runs"] == 3
  assert measure.timed(lambda: None, lambda: None, Budget(1000, 0.0))["runs"] == 1


def test_a_carried_state_goes_through_every_call():
  def step(state, increment):
    return state + increment, state

  (state, before), figures = measure.measure(
    step, (jnp.zeros((256, 256)), 1.0), Budget(2, 60.0), carry=True
  )
  assert state[0, 0] == before[0, 0] + 1 >= 3
  assert figures["memory_bytes"] >= state.nbytes


def test_memory_names_the_temporary_buffers():
  def function(x):
    return jnp.sum(jnp.sin(x @ x) @ x)

  _, figures = measure.measure(function, (jnp.ones((256, 256)),), ONCE)
  assert figures["temp_bytes"] >= 256 * 256 * 4
  assert figures["memory_bytes"] >= figures["temp_bytes"] + 256 * 256 * 4
  assert figures["flops"] == 2 * 2 * 256**3


def test_the_table_is_aligned_and_the_json_is_whole_after_every_row(tmp_path, capsys):
  path = tmp_path / "folder" / "bench.json"
  report = Report({"name": "x"}, str(path), hidden={"config": {"a": 1}})
  report.section("title")
  report.row("first", {"seconds": 0.0125, "bound": "memory"})
  assert json.loads(path.read_text()) == {
    "name": "x",
    "config": {"a": 1},
    "rows": [{"section": "title", "name": "first", "seconds": 0.0125, "bound": "memory"}],
  }
  report.note("no more")
  assert json.loads(path.read_text())["rows"][1] == {"section": "title", "note": "no more"}
  lines = capsys.readouterr().out.splitlines()
  heads = next(line for line in lines if "min ms" in line)
  row = next(line for line in lines if line.startswith("first"))
  assert row.split() == ["first", "12.50", "memory"]
  assert row.index("12.50") + len("12.50") == heads.index(" ms") + len(" ms")
  assert row.endswith("memory") and len(row) == len(heads)


def _small(config):
  """The same parts, each much narrower."""
  m = config.model
  m.backbone.update(stage_blocks=(1, 1), width=8, stem_width=8)
  m.rpn.channels = 8
  m.rpn.train.update(pre_nms=32, post_nms=16)
  m.rpn.test.update(pre_nms=32, post_nms=16)
  m.roi.update(batch_size_per_image=8, resolution=3)
  m.box_head.update(layers=1, width=16)
  m.classifier.update(embedding_dim=16, weight_transfer=(8, 8))
  m.test.update(detections=4, candidates=16)
  config.data.box.max_boxes = 20
  config.data.image.max_labels = 2
  if m.fpn.channels:
    m.fpn.channels = 8
    m.rpn.anchor_sizes = ((16,), (32,), (64,))
    m.mask_head.update(layers=1, channels=8, resolution=4)
  return config


def _trace(function, args, budget, ceilings=None, carry=False):
  """In place of `measure`: compiles nothing, and outputs are zeros."""
  del budget, ceilings, carry
  traced = jax.jit(function).trace(*args)
  flops = measure.matmul_flops(traced.jaxpr)
  outputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), traced.out_info)
  return outputs, {"flops": flops, "seconds": 1.0 + flops, "cpu_seconds": 1.0}


OPTIONS = dict(canvas=(128, 128), num_classes=5, steps=1, seconds=1e-6, image_batches=(2,))


def _sections(rows):
  sections = {}
  for row in rows:
    sections.setdefault(row["section"].split(",")[0], []).append(row)
  return sections


def _check_stages(rows):
  """Stages do the arithmetic of the whole: none is missing, none is counted twice."""
  whole, *parts = rows
  if whole["name"] == "inference":
    forward = whole
  else:
    forward, both = parts[:2]
    assert forward["name"] == "forward"
    assert both["flops"] == whole["flops"] > forward["flops"]
  assert parts[-1]["name"].startswith("sum of")
  assert parts[-1]["flops"] == pytest.approx(forward["flops"], rel=0.01)


@pytest.mark.parametrize(
  "published, programs",
  [(coco_weight_transfer, ["inference"]), (lvis_weight_transfer, ["box"])],
)
def test_stages_are_the_whole(published, programs, monkeypatch):
  monkeypatch.setattr(detector, "measure", _trace)
  monkeypatch.setattr(run_lib, "measure_ceilings", lambda *args: Ceilings(1.0, 1.0))
  rows = run(_small(published.get_config()), Options(programs=programs, **OPTIONS))
  sections = _sections(rows)
  assert [name.removesuffix(" step") for name in sections] == programs
  for name, section in sections.items():
    assert section[0]["name"] == name
    _check_stages(section)
    has_masks = any(row["name"] == "masks" for row in section)
    assert has_masks == (published is lvis_weight_transfer and name != "image step")


def test_a_run_prints_and_writes_every_figure(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  monkeypatch.setattr(against_torch, "_STAGE_BLOCKS", (1,))
  path = tmp_path / "bench.json"
  config = _small(coco_weight_transfer.get_config()).lock()
  rows = run(config, Options(output=str(path), programs=("image",), torch=True, **OPTIONS))
  content = json.loads(path.read_text())
  assert content["rows"] == rows
  assert content["config"]["model"]["roi"]["resolution"] == 3
  assert {"device", "devices", "cpus", "jax"} <= content["machine"].keys()
  assert content["ceilings"]["flops_per_s"] > 1e8 and content["ceilings"]["bytes_per_s"] > 1e7

  section = _sections(rows)["image step"]
  _check_stages(section)
  whole = section[0]
  for key in ("seconds", "compile_seconds", "flops", "accessed_bytes", "memory_bytes", "loss"):
    assert whole[key] > 0
  assert whole["images_per_s"] == pytest.approx(2 / whole["seconds"])
  assert whole["bound"] in ("compute", "memory")
  assert [row.get("name", row.get("note")) for row in rows[-3:]] == [
    "ours, forward",
    "ours, forward and backward",
    "torch is not measured: ModuleNotFoundError: import of torch halted; None in sys.modules",
  ]


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
  assert names == ["ours, batch 2", missing, "ours, batch 3", missing]
  # 5 tokens: patches, then per block qkv and output, attention both ways, and the MLP.
  tokens, width = 5, 64
  block = 12 * tokens * width**2 + 2 * tokens**2 * width
  flops = 2 * (4 * 8 * 8 * 3 * width + 2 * block + width * 16)
  assert rows[0]["flops"] == 2 * flops and rows[2]["flops"] == 3 * flops
  assert rows[2]["images_per_s"] == pytest.approx(3 / rows[2]["seconds"])


@pytest.mark.parametrize(
  "preset, message", [("RN50", "RN50 is a ResNet"), ("ViT-B/8", "'ViT-B/8' is not one of")]
)
def test_towers_that_clip_does_not_compare(preset, message):
  with pytest.raises(ValueError, match=message):
    clip.run(preset, "float32", Options(torch=True))


def test_synthetic_parameters_fill_the_network_and_keep_it_in_scale():
  config = _small(lvis_weight_transfer.get_config())
  params = synthetic.params(config, np.random.default_rng(0))
  abstract = rcnn.abstract_params(config)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
    lambda x: (x.shape, x.dtype), abstract
  )
  assert any(jax.tree.leaves(frozen_mask(params, config.frozen)))
  batch = synthetic.batch(config, "box", 2, (128, 128), 5, np.random.default_rng(1))
  features = functools.partial(rcnn.build(config).apply, method=rcnn.RCNN.features)
  maps = jax.jit(features)({"params": params}, batch.images, batch.sizes)
  assert all(0.05 < float(jnp.std(x)) < 20 for x in maps)


def test_synthetic_batches_hold_what_their_kind_needs():
  config = _small(lvis_weight_transfer.get_config())
  rng = np.random.default_rng(0)
  box, image, inference = (
    synthetic.batch(config, kind, 2, (96, 160), 5, rng) for kind in ("box", "image", "inference")
  )
  assert box.ground_truth.valid.sum(axis=1).tolist() == [15, 15]
  boxes = box.ground_truth.boxes[box.ground_truth.valid]
  assert (boxes[:, 2:] - boxes[:, :2] >= 15.9).all()
  assert (boxes >= 0).all() and (boxes <= [160, 96, 160, 96]).all()
  corners = box.ground_truth.vertices[0, 0, box.ground_truth.owners[0, 0] >= 0]
  np.testing.assert_allclose(
    [corners.min(axis=0), corners.max(axis=0)], boxes[0].reshape(2, 2), atol=1e-3
  )
  assert box.regions.boxes.shape == image.regions.boxes.shape == (2, 5, 4)
  assert image.pseudo_boxes.valid.all() and image.ground_truth is None
  assert inference.regions is None and inference.pseudo_boxes is None


@pytest.mark.parametrize(
  "change, options, message",
  [
    ({"task": "clip"}, {}, "task 'clip'"),
    ({"model.dtype": "float8"}, {}, "dtype is 'float8'; expected one of float32, bfloat16"),
    ({}, {"programs": ("boxes",)}, "boxes unknown; known: inference, box, image, forms"),
    ({}, {"inference_batches": (0,)}, "at least 1"),
    ({}, {"canvas": (32, 128)}, "at least 64x64"),
  ],
)
def test_what_it_refuses(change, options, message):
  config = _small(coco.get_config()) if "task" in change else coco.get_config()
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=message):
    run(config, Options(**options))


def test_the_command_runs_without_the_data_stack(tmp_path):
  """On a machine with jax, flax, optax and ml_collections alone; torch is missing too."""
  path = tmp_path / "bench.json"
  code = (
    f"import sys; sys.modules.update(dict.fromkeys({MISSING!r}));"
    "import runpy; runpy.run_module('rkd_jax.benchmark', run_name='__main__', alter_sys=True)"
  )
  arguments = ["--config=configs/coco/base.py", "--programs=forms", "--canvas=64x64", "--steps=1"]
  arguments += ["--seconds=0.001", f"--output={path}", "--dtype=bfloat16"]
  arguments += ["--config.model.rpn.test.post_nms=4", "--config.model.roi.batch_size_per_image=4"]
  done = subprocess.run(
    [sys.executable, "-c", code, *arguments],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "4 RoIs 14x14: gather" in done.stdout
  assert json.loads(path.read_text())["dtype"] == "bfloat16"
