"""The benchmark at toy size: stages do the arithmetic of the whole; what it writes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from narrow import OPTIONS, check_stages, narrow, sections

from rkd_jax.benchmark import comparisons, detector, measure, report
from rkd_jax.benchmark.detector import run
from rkd_jax.benchmark.measure import Ceilings
from rkd_jax.benchmark.report import Options
from rkd_jax.configs.coco import base as coco
from rkd_jax.configs.coco import rkd_ils_weight_transfer as coco_weight_transfer
from rkd_jax.configs.lvis import rkd_ils_weight_transfer as lvis_weight_transfer

REPOSITORY = Path(__file__).parents[2]
# With torch, which is optional.
MISSING = (
  *("tensorflow", "tensorflow_datasets", "tensorflow_metadata", "grain", "array_record", "pyarrow"),
  *("orbax", "orbax.checkpoint", "etils", "pycocotools", "hotcoco", "PIL", "scipy", "matplotlib"),
  *("tensorboardX", "tokenizers", "safetensors", "ftfy", "tqdm", "torch", "torchvision"),
)


def _trace(function, args, budget, ceilings=None, carry=False, kernels=0):
  """In place of `measure`: compiles nothing, and outputs are zeros."""
  del budget, ceilings, carry, kernels
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


def test_a_run_prints_and_writes_every_figure(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  monkeypatch.setattr(comparisons, "_STAGE_BLOCKS", (1,))
  path = tmp_path / "bench.json"
  config = narrow(coco_weight_transfer.get_config()).lock()
  rows = run(
    config, Options(output=str(path), programs=("image",), torch=True, kernels=3, **OPTIONS)
  )
  content = json.loads(path.read_text())
  assert content["rows"] == rows
  assert content["config"]["model"]["roi"]["resolution"] == 3
  assert {"device", "devices", "cpus", "jax"} <= content["machine"].keys()
  assert content["ceilings"]["flops_per_s"] > 1e8 and content["ceilings"]["bytes_per_s"] > 1e7

  section = sections(rows)["image step"]
  check_stages(section)
  whole = section[0]
  for key in ("seconds", "compile_seconds", "flops", "accessed_bytes", "memory_bytes", "loss"):
    assert whole[key] > 0
  assert whole["images_per_s"] == pytest.approx(2 / whole["seconds"])
  assert whole["bound"] in ("compute", "memory")
  *heaviest, rest = whole["kernels"]
  assert len(heaviest) == 3 and rest["name"].startswith("the other ")
  assert sum(kernel["share"] for kernel in whole["kernels"]) == pytest.approx(1)
  assert any(kernel["source"] != "compiler" for kernel in heaviest)
  assert not any("kernels" in row for row in section[1:])
  assert [row.get("name", row.get("note")) for row in rows[-3:]] == [
    "ours, forward",
    "ours, forward and backward",
    "torch is not measured: ModuleNotFoundError: import of torch halted; None in sys.modules",
  ]


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
  config = narrow(coco.get_config()) if "task" in change else coco.get_config()
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
