"""Flags of commands: where they are defined, and --config by name."""

import pytest
from absl import app, flags

from rkd_jax import commands, configs

CONFIG = str(configs.FOLDER / "coco" / "rkd.py")


@pytest.mark.parametrize(
  "given, parsed",
  [
    (["--config=coco/rkd"], [f"--config={CONFIG}"]),
    (["-config=coco/rkd.py:root=a"], [f"-config={CONFIG}:root=a"]),
    (["--config", "coco/rkd", "--config.seed=3"], ["--config", CONFIG, "--config.seed=3"]),
    (["--workdir=coco/rkd", "--config.seed=3"], ["--workdir=coco/rkd", "--config.seed=3"]),
  ],
)
def test_the_name_of_a_config_becomes_its_file(monkeypatch, given, parsed):
  monkeypatch.setattr(app, "parse_flags_with_usage", lambda argv: argv)
  assert commands._parse(["program", *given]) == ["program", *parsed]


def test_an_unknown_config_ends_the_program_with_a_sentence():
  with pytest.raises(SystemExit, match=r"--config=coco/rdk: there is no such file.*coco/rkd, "):
    commands._parse(["program", "--config=coco/rdk"])


def test_flags_are_defined_when_a_command_runs(monkeypatch):
  values, got = flags.FlagValues(), []
  monkeypatch.setattr(flags, "FLAGS", values)
  monkeypatch.setattr(app, "run", lambda main, flags_parser: main(values(["program", "--n=3"])))
  commands.run(
    lambda given: got.append(given.n), lambda: flags.DEFINE_integer("n", 1, "", flag_values=values)
  )
  assert got == [3]
