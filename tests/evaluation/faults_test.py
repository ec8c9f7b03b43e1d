"""Evaluation of 20,000 images with 300 detections each stays below 2 GB, in every protocol."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults
TESTS = Path(__file__).parents[1]

# Peaks are of a process that does nothing else.
_SCRIPT = """
import sys
import numpy as np
from made_records import make_record
from rkd_jax.evaluation.coco import CocoEvaluator
from rkd_jax.evaluation.lvis import LvisEvaluator
from rkd_jax.evaluation.open_images import OpenImagesEvaluator

protocol, images, more = sys.argv[1], 20_000, {}
names = [f"class {i}" for i in range(65 if protocol == "coco" else 1203)]
base, novel, rng = names[:48], names[48:], np.random.default_rng(0)
if protocol == "coco":
  evaluator = CocoEvaluator(names, base, novel, max_detections=300)
else:
  more["negative_labels"] = np.arange(len(names))
if protocol == "lvis":
  more["not_exhaustive_labels"] = np.zeros(0, int)
  evaluator = LvisEvaluator(names, ["r", "c", "f"] * 401, masks=False)
if protocol == "open_images":
  evaluator = OpenImagesEvaluator(names, base, novel, [[] for _ in names])

def boxes(count):
  corner = rng.random((count, 2)) * 400
  return np.concatenate([corner, corner + 10 + rng.random((count, 2)) * 200], 1).astype(np.float32)

# The same hundred scenes again and again: making others would take most of the time.
scenes = []
for _ in range(100):
  objects = boxes(8)
  truth = {
    "boxes": objects,
    "classes": rng.integers(0, len(names), 8).astype(np.int32),
    "is_crowd": np.zeros(8, bool),
    "areas": (objects[:, 2:] - objects[:, :2]).prod(axis=1),
  }
  found = {
    "boxes": boxes(300),
    "scores": rng.random(300).astype(np.float32),
    "classes": rng.integers(0, len(names), 300).astype(np.int32),
  }
  scenes.append((truth, found))
for number in range(images):
  truth, found = scenes[number % 100]
  evaluator.add(make_record(0, image_id=number, height=640, width=640, **truth, **more), found)
results = evaluator.compute()
assert sum(own["num_gt"] for own in results["per_class"].values()) == 8 * images
# ru_maxrss would begin with that of the process that started this one.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1e6)
"""


@pytest.mark.parametrize("protocol", ["coco", "lvis", "open_images"])
def test_memory_of_many_detections(protocol):
  command = [sys.executable, "-c", _SCRIPT, protocol]
  environment = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
  assert float(done.stdout) < 2.0
