"""What pyproject.toml asks for, beside what the tests run with."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _pins(file: str) -> dict[str, Requirement]:
  lines = (line.partition("#")[0].strip() for line in (REPOSITORY / file).read_text().splitlines())
  return {pin.name: pin for pin in map(Requirement, filter(None, lines))}


@pytest.mark.parametrize(
  "file, ranges",
  [
    ("requirements.txt", PROJECT["dependencies"]),
    *((f"requirements-{extra}.txt", EXTRAS[extra]) for extra in ("dev", "gcs", "beam")),
    (
      "requirements-door.txt",
      [*EXTRAS["video"], *EXTRAS["web"], *EXTRAS["onnx"], "selenium>=4"],
    ),
  ],
)
def test_the_ranges_admit_the_pins(file, ranges):
  pins = _pins(file)
  ranges = {asked.name: asked for asked in map(Requirement, ranges)}
  # jax asks for the jaxlib that it needs.
  assert pins.keys() - {"jaxlib"} == ranges.keys()
  for name, asked in ranges.items():
    (pin,) = pins[name].specifier
    assert pin.operator == "==" and asked.specifier.contains(pin.version), f"{asked} / {pins[name]}"
    assert str(asked.marker) == str(pins[name].marker)
