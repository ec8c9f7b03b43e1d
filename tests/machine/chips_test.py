import pytest

from rkd_jax.machine.chips import CHIPS, peak_flops


class Device:
  def __init__(self, kind):
    self.device_kind = kind


@pytest.mark.parametrize(
  "kind, name",
  [
    ("TPU v4", "v4"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v6 lite", "v6e"),
    ("NVIDIA A100-SXM4-80GB", "a100"),
    ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA H200", "h200"),
  ],
)
def test_the_peak_is_that_of_the_chip_times_the_devices(kind, name):
  assert peak_flops([Device(kind)] * 4) == 4 * CHIPS[name].flops > 0


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 PCIe", "TPU v7"])
def test_of_others_it_is_not_known(kind):
  assert peak_flops([Device("NVIDIA H200"), Device(kind)]) == 0
