"""When a run is evaluated, by one that measures nothing; and for real, killed and resumed."""

import functools
from pathlib import Path

from rkd_jax.configs import common
from rkd_jax.runs import evaluations
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
