"""Flags of commands: where they are defined, and --config by name."""

import subprocess
import sys
import types
from pathlib import Path

import ml_collections
import pytest
from absl import app, flags

from rkd_jax import commands, configs
from rkd_jax.configs import common

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


def test_the_flag_for_bad_images_sets_the_key_of_the_config(monkeypatch):
  for arguments, expected in (([], False), (["--skip_bad_images"], True)):
    config, values = ml_collections.ConfigDict({"skip_bad_images": False}), flags.FlagValues()
    config.compilation_cache = ""

    def define(values=values, config=config):
      flags.DEFINE_bool("skip_bad_images", False, "", flag_values=values)
      values["config"] = flags.Flag(
        parser=flags.ArgumentParser(), serializer=None, name="config", default=None, help_string=""
      )
      values.config = config

    monkeypatch.setattr(flags, "FLAGS", values)
    parsed = ["program", *arguments]
    monkeypatch.setattr(
      app, "run", lambda main, flags_parser, parsed=parsed, values=values: main(values(parsed)[:1])
    )
    commands.run(lambda given: None, define)
    assert config.skip_bad_images == expected


@pytest.mark.faults
@pytest.mark.parametrize(
  "module",
  [
    *("main", "predict", "show", "benchmark", "precompute"),
    *("data.coco_json.coco_json", "data.imagenet_lvis.imagenet_lvis"),
  ],
)
def test_every_command_that_decodes_has_the_flag_for_bad_images(module):
  command = [sys.executable, "-m", f"rkd_jax.{module}", "--help"]
  root = Path(__file__).parents[1]
  done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
  assert "skip_bad_images" in done.stdout


def _run(monkeypatch, command):
  values = flags.FlagValues()
  monkeypatch.setattr(flags, "FLAGS", values)
  monkeypatch.setattr(app, "run", lambda main, flags_parser: main(values(["program"])))
  commands.run(command, lambda: None)


def test_what_the_package_says_itself_is_a_sentence_without_a_stack(monkeypatch):
  def ours(given):
    configs.locate("coco/rdk")

  with pytest.raises(SystemExit, match=r"^ValueError: --config=coco/rdk: there is no such file"):
    _run(monkeypatch, ours)

  def others(given):
    int("x")

  with pytest.raises(ValueError, match="invalid literal"):
    _run(monkeypatch, others)


def test_settings_that_may_be_without_a_value_can_be_set_to_none(monkeypatch):
  config = common.detector()
  config.model.classifier.bias, config.model.classifier.weight_transfer = -4.6, (4, 8)
  monkeypatch.setattr(flags, "FLAGS", types.SimpleNamespace(config=config.lock()))
  monkeypatch.setattr(app, "parse_flags_with_usage", lambda argv: argv)
  given = [f"--config.model.classifier.{name}=None" for name in ("bias", "weight_transfer")]
  assert commands._parse(["program", *given, "--x=None"]) == ["program", "--x=None"]
  assert config.model.classifier.bias is config.model.classifier.weight_transfer is None
  with pytest.raises(SystemExit, match=r"=None: it always has a value, such as 0\.$"):
    commands._parse(["program", "--config.seed=None"])
  with pytest.raises(SystemExit, match=r"there is no setting model\.clasifier\.bias"):
    commands._parse(["program", "--config.model.clasifier.bias=None"])
