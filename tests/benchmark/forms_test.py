"""The forms of RoIAlign and NMS at toy size: what is measured, and with which sizes."""

from narrow import narrow

from rkd_jax.benchmark import forms, report
from rkd_jax.benchmark.measure import Ceilings
from rkd_jax.benchmark.report import Bench, Options
from rkd_jax.configs.lvis import base as lvis


def test_every_form_is_measured_at_the_sizes_of_the_config(monkeypatch):
  monkeypatch.setattr(forms, "measure", lambda *args: (None, {"seconds": 1.0}))
  monkeypatch.setattr(report, "measure", lambda *args: (None, {"seconds": 1.0}))
  monkeypatch.setattr(report, "measure_ceilings", lambda *args: Ceilings(1.0, 1.0))
  config = narrow(lvis.get_config())
  bench = Bench("toy", "float32", Options())
  forms.compare(config, bench, 2, (128, 128))
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
