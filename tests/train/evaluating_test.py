"""When a run is evaluated, by one that measures nothing; and for real, killed and resumed."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import tiny_coco

from rkd_jax.configs import common
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source
from rkd_jax.runs import evaluations
from rkd_jax.runs.checkpoint import latest_step, run_and_step, steps_of
from rkd_jax.runs.metrics import METRICS_FILE, MetricWriter, read_metrics
from rkd_jax.train import evaluating

REPOSITORY = Path(__file__).parents[2]


def _config(every=3, num_steps=8, best=""):
  config = common.detector()
  config.num_steps, config.evaluation.every, config.checkpoint.best = num_steps, every, best
  return config


def _due(config):
  return [step for step in range(config.num_steps + 1) if evaluating.is_due(config, step)]


def test_evaluations_are_due_every_so_many_steps_and_after_the_last():
  assert _due(_config()) == [3, 6, 8]
  assert _due(_config(every=0)) == []
  assert _due(_config(every=4)) == [4, 8]
  assert _due(common.clip()) == []


def test_old_classes_are_measured_before_the_first_step():
  config = _config()
  config.evaluation.retention.name = "coco_ovd/plain"
  assert _due(config) == [0, 3, 6, 8]


class _Fake:
  """Results that depend on the step alone; says which steps were asked for."""

  def __init__(self, workdir):
    self.workdir, self.steps = workdir, []

  def __call__(self, step, params, stop):
    self.steps.append(step)
    if stop():
      return None
    results = {"step": step, "AP50_all": float(params - step % 5), "AP50_novel": None}
    evaluations.record(self.workdir, step, results)
    return results


def _never():
  return False


def test_results_are_written_and_told_in_a_line(tmp_path, capsys):
  fake = _Fake(tmp_path)
  with MetricWriter(tmp_path, 0) as writer:
    own = evaluating.Evaluations(_config(best="AP50_all"), tmp_path, fake, writer)
    assert own.begin(0, 10.0, _never) and fake.steps == []
    assert own.measure(3, 10.0, _never) and own.measure(6, 11.0, _never)
  lines = [(line["step"], line["kind"], line["AP50_all"]) for line in read_metrics(writer._path)]
  assert lines == [(3, "eval", 7.0), (6, "eval", 10.0)]
  assert capsys.readouterr().out.splitlines() == [
    "step 3 of 8: AP50_all 7.0 (best so far)",
    "step 6 of 8: AP50_all 10.0 (best so far)",
  ]


def test_the_best_so_far_is_pointed_out_but_never_the_start(tmp_path, capsys):
  evaluations.record(tmp_path, 0, {"AP50_all": 99.0})
  own = evaluating.Evaluations(_config(best="AP50_all"), tmp_path, _Fake(tmp_path), None)
  own.measure(3, 10.0, _never)
  own.measure(6, 5.0, _never)
  first, second = capsys.readouterr().out.splitlines()
  assert first.endswith("7.0 (best so far)") and second.endswith("4.0")


def test_a_run_that_goes_on_measures_what_it_did_not_finish(tmp_path):
  fake = _Fake(tmp_path)
  make = functools.partial(evaluating.Evaluations, _config(), tmp_path, fake)
  evaluations.record(tmp_path, 3, {"step": 3, "AP50_all": 7.0})
  evaluations.record(tmp_path, 8, {"step": 8, "AP50_all": 99.0})
  with MetricWriter(tmp_path, 6) as writer:
    assert make(writer).begin(6, 10.0, _never)
  assert fake.steps == [6]
  # Later steps come again.
  assert list(evaluations.read(tmp_path)) == [3, 6]
  with MetricWriter(tmp_path, 6) as writer:
    assert make(writer).begin(6, 10.0, _never)
  assert fake.steps == [6]
  assert [line["step"] for line in read_metrics(tmp_path / METRICS_FILE)] == [6]
  assert make(None).begin(5, 10.0, _never) and fake.steps == [6]


def test_a_run_from_the_beginning_knows_nothing(tmp_path):
  evaluations.record(tmp_path, 0, {"step": 0, "AP50_all": 99.0})
  config, fake = _config(), _Fake(tmp_path)
  config.evaluation.retention.name = "coco_ovd/plain"
  assert evaluating.Evaluations(config, tmp_path, fake, None).begin(0, 1.0, _never)
  assert fake.steps == [0] and evaluations.read(tmp_path)[0]["AP50_all"] == 1.0


def test_a_stopped_evaluation_leaves_nothing(tmp_path, capsys):
  own = evaluating.Evaluations(_config(), tmp_path, _Fake(tmp_path), None)
  assert not own.measure(3, 10.0, lambda: True)
  assert evaluations.read(tmp_path) == {} and capsys.readouterr().out == ""


def test_the_line_has_the_change_of_old_classes():
  old = {"records": "coco_ovd/plain/validation", "AP50_all": 40.0, "AP50_all_change": -2.25}
  results = {"step": 3, "AP50_all": 7.0, "per_class": {}, "retention": old}
  assert evaluating.line_of(_config(), 3, results, False) == (
    "step 3 of 8: AP50_all 7.0; old classes, coco_ovd/plain/validation: AP50_all 40.0 (-2.2)"
  )


# Wide enough for a chance of some AP, and quick.
NARROW = {
  "model.backbone.stage_blocks": "(1,1)",
  "model.backbone.width": 16,
  "model.backbone.stem_width": 16,
  "model.backbone.expansion": 1,
  "model.rpn.channels": 8,
  "model.rpn.anchor_sizes": "((16.0,),)",
  "model.rpn.train.post_nms": 8,
  "model.rpn.test.post_nms": 16,
  "model.roi.resolution": 3,
  "model.roi.batch_size_per_image": 8,
  "model.box_head.layers": 1,
  "model.box_head.width": 16,
  "model.test.score_threshold": 0.0,
  "model.test.candidates": 24,
  "model.test.detections": 10,
}
SHORT = {"num_steps": 12, "evaluation.every": 4, "checkpoint.every": 4, "checkpoint.keep": 1}


def _start(*arguments, **settings) -> subprocess.Popen:
  """`rkd-jax` on two fake devices."""
  flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in settings.items()]
  environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
  return subprocess.Popen(
    [sys.executable, "-m", "rkd_jax.cli", *map(str, arguments), *flags],
    cwd=REPOSITORY,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _run(*arguments, **settings) -> str:
  process = _start(*arguments, **settings)
  said, _ = process.communicate()
  assert process.returncode == 0, said
  return said


def _train(root, workdir, stage="base", **settings):
  config = f"--config=coco_json:{stage},root={root},size=32"
  return _start("train", config, f"--workdir={workdir}", **settings)


def _finish(process) -> str:
  said, _ = process.communicate()
  assert process.returncode == 0, said
  return said


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("own")
  tiny_coco.build_data(root)
  return root


@pytest.fixture(scope="module")
def whole(root):
  """The workdir of a run that nothing disturbed, and what it said."""
  said = _finish(_train(root, root / "base", **NARROW, **SHORT))
  return root / "base", said


def _same(workdir, whole) -> bool:
  """Whether a run was evaluated to the same numbers, and trained with the same."""
  metrics, expected = (read_metrics(run / METRICS_FILE) for run in (workdir, whole))
  return evaluations.read(workdir) == evaluations.read(whole) and metrics == expected


@pytest.mark.door
def test_a_run_on_own_data_says_what_it_trains_and_how_it_fares(whole):
  workdir, said = whole
  assert re.search(r"^records +3 images with \d+ boxes of coco_json/plain/train$", said, re.M)
  assert re.search(r"^classes +2 base, 1 novel$", said, re.M)
  assert re.search(r"^start +random weights$", said, re.M)
  assert re.search(r"^evaluation +every 4 steps on validation; the best AP50_all", said, re.M)
  lines = re.findall(r"step (\d+) of 12: AP50_novel", said)
  assert lines == ["4", "8", "12"]
  own = [line for line in read_metrics(workdir / METRICS_FILE) if line["kind"] == "eval"]
  assert [line["step"] for line in own] == [4, 8, 12]
  assert {"AP50_all", "AP_all"} <= own[0].keys()


@pytest.mark.door
def test_the_best_checkpoint_is_kept_and_found_by_its_name(whole):
  workdir, _ = whole
  best = evaluations.best_step(workdir, "AP50_all")
  assert set(steps_of(workdir)) == {best, 12}
  assert run_and_step(workdir / "checkpoints" / "best")[1] == best
  before = evaluations.read(workdir)[best]
  printed = _run("eval", f"--workdir={workdir}/checkpoints/best")
  results = json.loads(printed[printed.index("{\n") : printed.rindex("}") + 1])
  assert {key: results[key] for key in before} == before and results["step"] == best


@pytest.mark.door
@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_run_that_ends_in_an_evaluation_goes_on_to_the_same(number, code, root, whole, tmp_path):
  process = _train(root, tmp_path / "run", **NARROW, **SHORT)
  limit = time.monotonic() + 300
  while latest_step(tmp_path / "run") != 4:
    assert process.poll() is None and time.monotonic() < limit
    time.sleep(0.02)
  # The first evaluation, which compiles, has only begun.
  process.send_signal(number)
  process.communicate()
  assert process.returncode == code
  assert latest_step(tmp_path / "run") < 12
  _finish(_train(root, tmp_path / "run", **NARROW, **SHORT))
  assert _same(tmp_path / "run", whole[0])


@pytest.mark.door
def test_training_on_says_whether_old_classes_survive(root, whole, tmp_path):
  retention = {
    "evaluation.retention.name": "coco_json/plain",
    "evaluation.retention.split": "train",
  }
  config = f"--config=coco_json:base,root={root},init={whole[0]},steps=4"
  said = _run("train", config, f"--workdir={tmp_path}/on", **retention, evaluation__every=2)
  found = evaluations.read(tmp_path / "on")
  assert list(found) == [0, 2, 4]
  start, end = found[0]["retention"], found[4]["retention"]
  assert start["AP50_all"] == found[0]["AP50_all"] and "AP50_all_change" not in start
  assert end["AP50_all_change"] == end["AP50_all"] - start["AP50_all"]
  assert "step 4 of 4: " in said and "; old classes, coco_json/plain/train: AP50_" in said
  lines = [m for m in read_metrics(tmp_path / "on" / METRICS_FILE) if m["kind"] == "retention"]
  assert [line["step"] for line in lines] == [0, 2, 4]
  printed = _run("eval", f"--workdir={tmp_path}/on")
  assert json.loads(printed[printed.index("{\n") : printed.rindex("}") + 1])["retention"] == end


@pytest.mark.door
def test_two_processes_share_the_evaluation(root, whole, tmp_path):
  flags = [f"--config=coco_json:base,root={root},size=32", f"--workdir={tmp_path}/run"]
  flags += [f"--config.{key}={value}" for key, value in {**NARROW, **SHORT}.items()]
  first, second = processes.run(tmp_path / "logs", "-m", "rkd_jax.main", *flags)
  assert first.returncode == second.returncode == 0, first.stderr + second.stderr
  assert re.findall(r"step (\d+) of 12: AP50_novel", first.stdout) == ["4", "8", "12"]
  assert "of 12: AP50" not in second.stdout and "records" not in second.stdout
  expected = evaluations.read(whole[0])
  for step, own in evaluations.read(tmp_path / "run").items():
    assert own == pytest.approx(expected[step], abs=0.01)


def _write_teachers(root):
  source = open_source(root / "data", "coco_json/plain", "train")
  rng = np.random.default_rng(0)
  with TeacherWriter(root / "teachers", "train", 8, {}) as writer:
    for record in map(source.__getitem__, range(len(source))):
      writer.write(
        record.image_id,
        {
          "regions/boxes": np.array([[2, 2, 30, 30], [8, 8, 24, 24]], np.float32),
          "regions/scores": np.array([0.9, 0.5], np.float32),
          "regions/clip_embeddings": rng.normal(size=(2, 8)).astype(np.float32),
          "pseudo_boxes/boxes": np.array([[8, 8, 30, 28]], np.float32),
          "pseudo_boxes/labels": np.array([2]),
          "pseudo_boxes/scores": np.array([0.5], np.float32),
        },
      )


@pytest.mark.door
def test_every_stage_goes_on_from_the_one_before(root, whole):
  _write_teachers(root)
  expected = {
    "rkd": {"box": {"rkd_l1", "rkd_irm"}},
    "ils": {"image": {"pms"}},
    "rkd_ils": {"box": {"rkd_l1"}, "image": {"pms", "rkd_l1"}},
    "rkd_ils_weight_transfer": {"box": {"rkd_l1"}, "image": {"pms", "rkd_irm"}},
  }
  for stage, terms in expected.items():
    # The network and its sizes are those of the run before.
    config = f"--config=coco_json:{stage},root={root},steps=2"
    said = _run("train", config, f"--workdir={root}/{stage}", data__image__batch_size=2)
    parent = "rkd" if stage == "rkd_ils_weight_transfer" else "base"
    assert re.search(rf"^start +{root}/{parent}$", said, re.M)
    metrics = {m["kind"]: m for m in read_metrics(root / stage / METRICS_FILE)}
    assert all(terms[kind] <= metrics[kind].keys() for kind in terms)
    assert "AP50_all" in metrics["eval"]
