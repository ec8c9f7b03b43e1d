"""Rows in the order of what they start from: skipped, gone on with, waited for, evaluated again."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_rows
from tiny_rows import order_of, write_run

from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import elsewhere, shapes_ovd, vocabulary
from rkd_jax.recipe import recipes, run, table, training
from rkd_jax.recipe.needs import known as needs
from rkd_jax.recipe.needs.need import Need
from rkd_jax.recipe.order import Order
from rkd_jax.recipe.rows import Row
from rkd_jax.recipe.run import Clock, Job
from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.runs.lock import locked
from rkd_jax.vocabulary import class_embeddings

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def known(monkeypatch):
  monkeypatch.setitem(needs.NEEDS, "tiny", tiny_rows.NEEDS)


root = pytest.fixture(scope="module")(tiny.root)


@pytest.fixture
def pretended(monkeypatch, tmp_path):
  """Runs that are trained at once; the folders, in the order in which they were."""
  (tmp_path / "data").mkdir()
  done = []

  def train_and_evaluate(config, workdir):
    if config.init.checkpoint:
      assert latest_step(config.init.checkpoint), "what it starts from is not there"
    done.append(Path(workdir).relative_to(tmp_path).as_posix())
    name, seed = done[-1].split("/seed")
    write_run(order_of(tmp_path), name, config.num_steps, int(seed), AP50_all=float(seed))
    return {"AP50_all": 1.0}

  monkeypatch.setattr(run, "train_and_evaluate", train_and_evaluate)
  return done


def test_rows_are_made_after_what_they_start_from(tmp_path, pretended):
  order = order_of(tmp_path, seeds=(3, 1))
  found = run.run(order, Clock())
  rows = ("base", "rkd", "control")
  assert pretended == [f"{row}/seed{seed}" for seed in (3, 1) for row in rows]
  assert [own["AP50_all"] for own in found["control"]] == [3.0, 1.0]
  # Nothing is left to be done.
  run.run(order, Clock())
  assert len(pretended) == 6


def test_only_what_is_not_finished_is_made(tmp_path, pretended):
  write_run(order_of(tmp_path), "base", 4, AP50_all=1.0)
  write_run(order_of(tmp_path), "rkd", 2)  # not evaluated
  shutil.rmtree(tmp_path / "rkd")
  run.run(order_of(tmp_path, "rkd"), Clock())
  assert pretended == ["rkd/seed0"]
  run.run(order_of(tmp_path, "control", only=True), Clock())
  assert pretended == ["rkd/seed0", "control/seed0"]


def test_what_cannot_be_made_is_said_before_anything_is(tmp_path, pretended):
  (tmp_path / "data").rmdir()
  sentence = f"Records of {tmp_path}: not there. Make it with: python -m tiny --output={tmp_path}."
  with pytest.raises(ValueError, match="Nothing was done yet") as error:
    run.run(order_of(tmp_path), Clock())
  assert str(error.value).splitlines()[1:] == [sentence] and not pretended
  # Of rows that are finished nothing is needed.
  for name, step in (("base", 4), ("rkd", 2), ("control", 2)):
    write_run(order_of(tmp_path), name, step, AP50_all=1.0)
  assert run.run(order_of(tmp_path), Clock())["rkd"] == [{"step": 2, "AP50_all": 1.0}]


def test_what_each_seed_needs_is_made_after_the_seeds_own_run(tmp_path, pretended, monkeypatch):
  row = Row("own", "own", tiny_rows.__file__, "2", "base", ("own",), after=("rkd",))
  recipe = dataclasses.replace(tiny_rows.RECIPE, rows=(*tiny_rows.RECIPE.rows, row))
  monkeypatch.setattr(tiny_rows, "RECIPE", recipe)
  place = tmp_path / "made"

  def make(flags):
    place.joinpath(*flags).touch()
    pretended.append(flags[0])

  place.mkdir()
  need = Need(
    "Of a seed",
    lambda order: (place / f"{order.seeds}").exists(),
    lambda order: ["python", "-m", "tiny", f"{order.seeds}"],
    make,
    after_row="rkd",
    each_seed=True,
  )
  monkeypatch.setitem(needs.NEEDS, "tiny", {**tiny_rows.NEEDS, "own": need})
  run.run(order_of(tmp_path, "own", seeds=(1, 0)), Clock())
  for seed in (1, 0):
    assert pretended.index(f"rkd/seed{seed}") < pretended.index(f"({seed},)")
    assert pretended.index(f"({seed},)") < pretended.index(f"own/seed{seed}")
  assert len(pretended) == 8


def _job(name, done, folder, after=()):
  def do():
    with locked(folder / name):
      done.append(name)

  return Job(name, f"title of {name}", after, lambda: name in done, do)


def test_what_another_process_has_is_waited_for_and_others_are_made_meanwhile(tmp_path, capsys):
  done, held, free = [], threading.Event(), threading.Event()

  def elsewhere():
    with locked(tmp_path / "parent"):
      held.set()
      free.wait()

  thread = threading.Thread(target=elsewhere)
  thread.start()
  held.wait()
  jobs = [
    _job("parent", done, tmp_path),
    _job("child", done, tmp_path, ("parent",)),
    _job("other", done, tmp_path),
  ]
  worker = threading.Thread(target=run.work_off, args=(jobs, Clock()), kwargs={"pause": 0.02})
  worker.start()
  until = time.monotonic() + 20
  while "other" not in done and time.monotonic() < until:
    time.sleep(0.02)
  time.sleep(0.2)
  assert done == ["other"]
  free.set()
  worker.join()
  thread.join()
  # The other process ended without a result.
  assert done == ["other", "parent", "child"]
  said = capsys.readouterr().out.splitlines()
  # What is looked at again and again is announced once.
  assert len([line for line in said if line.startswith("== title of parent")]) == 1
  lines = [line for line in said if line.startswith("Waiting")]
  assert len(lines) == 1
  assert lines[0].startswith("Waiting for title of parent: ") and "is in use: process" in lines[0]


def test_jobs_that_cannot_be_begun_are_named(tmp_path):
  jobs = [_job("a", [], tmp_path, ("b",)), _job("b", [], tmp_path, ("a",))]
  with pytest.raises(ValueError, match="none of these can be begun before another: a, b"):
    run.work_off(jobs, Clock())
  with pytest.raises(ValueError, match="two jobs have one name: a, a"):
    run.work_off([jobs[0], jobs[0]], Clock())


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_job_of_a_recipe_can_come_to_its_turn(tmp_path, recipe):
  order = Order(recipe, str(tmp_path), (0, 2), recipe.rows)
  done = []
  jobs = [
    dataclasses.replace(job, is_done=lambda: False, do=functools.partial(done.append, job.name))
    for job in run.jobs_of(order)
  ]
  run.work_off(jobs, Clock())
  assert sorted(done) == sorted(job.name for job in jobs)


def test_what_another_process_finishes_is_not_made_here(tmp_path):
  done = []

  def do():
    raise AssertionError("another process has made it")

  jobs = [Job("a", "a", (), lambda: True, do), _job("b", done, tmp_path, ("a",))]
  run.work_off(jobs, Clock())
  assert done == ["b"]


def test_rows_are_trained_gone_on_with_and_evaluated_again(root, monkeypatch, capsys):
  order = order_of(root, "rkd", "base_again")
  found = run.run(order, Clock())
  base, rkd = (root / name / "seed0" for name in ("base", "rkd"))
  assert latest_step(base) == 4 and latest_step(rkd) == 2
  assert found["rkd"][0]["step"] == 2 and "AP50_novel" in found["rkd"][0]
  again = root / "base_again" / "seed0"
  assert json.loads((again / "evaluation.json").read_text())["step"] == 4
  assert latest_step(again) is None
  config = json.loads((again / "config.json").read_text())
  assert config["model"]["test"]["detections"] == 5

  # A run that was killed goes on; the other rows stay.
  shutil.rmtree(rkd / "checkpoints" / "2")
  evaluated = []
  monkeypatch.setattr(training, "evaluate", lambda *a: evaluated.append(a) or {"step": 2})
  capsys.readouterr()
  run.run(order_of(root, "rkd"), Clock())
  assert latest_step(rkd) == 2 and not evaluated  # what it was evaluated to holds, the same step
  # What an earlier version did not have yet is as its default.
  del config["loss"]["ils"]["boxes"]
  (again / "config.json").write_text(json.dumps(config))
  assert all(job.is_done() for job in run.prepare(order))
  # Under other settings the row without training is evaluated once more.
  config["model"]["test"]["detections"] = 7
  (again / "config.json").write_text(json.dumps(config))
  jobs = [job.name for job in run.prepare(order) if not job.is_done()]
  assert jobs == ["base_again/0"]


def test_a_row_of_annotations_is_of_the_clip_of_its_fusion(tmp_path, pretended, monkeypatch):
  settings = {"model.test.fusion.kind": "crops", "model.test.fusion.clip": "{root}/clip"}
  row = Row("ceiling", "CLIP", parent="base", settings=settings, trains=False, of_annotations=True)
  recipe = dataclasses.replace(tiny_rows.RECIPE, rows=(*tiny_rows.RECIPE.rows, row))
  order = Order(recipe, str(tmp_path), (0,), tuple(recipe.chosen(["ceiling"])))
  write_run(order_of(tmp_path), "base", 4, AP50_all=1.0)
  monkeypatch.setattr(training, "load_clip", lambda place: f"the CLIP of {place}")

  def measured(config, clip):
    assert config.model.test.fusion.kind == "crops"
    return {"AP50_all": 93.0, "by": clip}

  monkeypatch.setattr(training, "clip_on_annotated_boxes", measured)
  for _ in range(2):  # the second time it is there
    found = run.run(order, Clock())["ceiling"]
    assert found == [{"step": 4, "AP50_all": 93.0, "by": f"the CLIP of {tmp_path}/clip"}]
    monkeypatch.setattr(training, "clip_on_annotated_boxes", None)
  assert pretended == []


def test_a_row_is_evaluated_on_another_data_set_with_other_class_embeddings(root):
  builder.prepare(
    shapes_ovd.ShapesOvd(
      data_dir=root / "data", config="elsewhere", sizes={"validation": 4}, workers=1
    )
  )
  rows = np.random.default_rng(1).normal(size=(len(elsewhere.CLASS_NAMES), tiny.EMBEDDING_DIM))
  class_embeddings.save(
    root / "elsewhere.npz", elsewhere.CLASS_NAMES, class_embeddings.TEMPLATE, rows
  )
  order = order_of(root, "base_elsewhere")
  found = run.run(order, Clock())
  (results,) = found["base_elsewhere"]
  # Nothing was trained on, so that all classes are novel ones and none are base ones.
  assert results["AP50_base"] is None and results["AP50_novel"] == results["AP50_all"] >= 0
  assert {*results["per_class"]} == {*elsewhere.CLASS_NAMES}
  assert {*found["base"][0]["per_class"]} == {*vocabulary.BASE, *vocabulary.NOVEL}
  (row,) = [
    line for line in table.markdown(order, table.collect(order)).splitlines() if "another" in line
  ]
  assert " – |" in row and "nan" not in row


@pytest.mark.faults
@pytest.mark.parametrize("while_training", [False, True])
def test_sigterm_ends_with_143_and_the_same_command_goes_on(tmp_path, while_training):
  tiny.build_data(tmp_path)
  environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
  command = [sys.executable, REPOSITORY / "tests" / "tiny_rows.py", "tiny", f"--root={tmp_path}"]
  command += ["--rows=base", "--report_images=0", "--config.num_steps=300"]
  first = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)
  while "== base" not in first.stdout.readline():
    pass
  base = tmp_path / "base" / "seed0"
  while while_training and not latest_step(base):
    time.sleep(0.05)
  first.send_signal(signal.SIGTERM)
  first.communicate()
  assert first.returncode == 143
  reached = latest_step(base)
  assert 2 <= reached < 300 if while_training else reached is None
  second = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
  assert second.returncode == 0, second.stderr[-2000:]
  assert latest_step(base) == 300
  rows = json.loads((tmp_path / "recipe.json").read_text())
  assert rows["rows"]["base"]["steps"] == [300] and rows["settings"] == {"num_steps": 300}
  steps = [json.loads(line)["step"] for line in (base / "metrics.jsonl").read_text().splitlines()]
  assert steps == sorted(steps)
