"""What is wrong with an order is said in a sentence before anything is done."""

import dataclasses
import json

import pytest
import tiny_rows
from tiny_rows import order_of, write_run

from rkd_jax.recipe import order as lib
from rkd_jax.recipe import recipes
from rkd_jax.recipe.order import Order
from rkd_jax.recipe.rows import Row


@pytest.mark.parametrize(
  "texts, sentence",
  [
    (["0", "x"], "'x' is no number"),
    (["-1"], "'-1' is no number"),
    (["1.5"], "'1.5' is no number"),
    (["1", "01"], "1 is given twice"),
    ([], "--seeds is empty"),
  ],
)
def test_seeds_are_different_numbers(texts, sentence):
  with pytest.raises(ValueError, match=sentence):
    lib.parse_seeds(texts)
  assert lib.parse_seeds(["2", "0"]) == (2, 0)


def test_settings_are_those_of_all_rows(tmp_path):
  given = ["--config.log_every=3", "--config.data.box.canvas=(32, 64)", "--config.name=a b"]
  order = order_of(tmp_path, settings=lib.parse_settings(given))
  for row in order.recipe.rows:
    config = order.config(row, 1)
    assert (config.log_every, config.data.box.canvas, config.name) == (3, (32, 64), "a b")
  assert order.config(order.recipe.row("base_again"), 0).model.test.detections == 5
  with pytest.raises(ValueError, match=r"--config\.seed is without a value"):
    lib.parse_settings(["--config.seed"])


@pytest.mark.parametrize(
  "settings, sentence",
  [
    ({"data.boxes.canvas": 1}, r'config\.data\.boxes\.canvas: there is no such.*"box"'),
    ({"num_steps": "many"}, r"config\.num_steps='many': expected a int, such as 4"),
    ({"seed.x": 1}, r"config\.seed\.x: there is no such setting"),
  ],
)
def test_settings_that_are_none(tmp_path, settings, sentence):
  with pytest.raises(ValueError, match=sentence):
    lib.check(order_of(tmp_path, settings=settings))


def test_a_root_belongs_to_one_recipe_and_its_settings(tmp_path):
  about = {"recipe": "tiny", "settings": {"log_every": 2}, "arguments": "", "rows": {}}
  (tmp_path / "recipe.json").write_text(json.dumps(about))
  lib.check(order_of(tmp_path, settings={"log_every": 2}))
  with pytest.raises(ValueError, match=r"other settings of all rows: settings\.log_every \(2, now"):
    lib.check(order_of(tmp_path, settings={"log_every": 3}))
  with pytest.raises(ValueError, match=r"holds the recipe 'tiny', asked for is 'demo'"):
    lib.check(Order(recipes.DEMO, str(tmp_path), (0,), recipes.DEMO.rows))
  (tmp_path / "recipe.json").write_text("{")
  with pytest.raises(ValueError, match=r"recipe\.json is damaged .*remove it"):
    lib.check(order_of(tmp_path))


def test_a_run_of_another_config_is_named_with_the_keys(tmp_path):
  order = order_of(tmp_path)
  folder = write_run(order, "base", 4)
  lib.check(order)
  content = json.loads((folder / "config.json").read_text())
  content["optimizer"]["learning_rate"] = 7.0
  (folder / "config.json").write_text(json.dumps(content))
  sentence = r"base/seed0 was started with another config; .*optimizer\.learning_rate \(7\.0, now"
  with pytest.raises(ValueError, match=sentence):
    lib.check(order)
  # Also where it is only started from.
  with pytest.raises(ValueError, match=sentence):
    lib.check(order_of(tmp_path, "rkd", only=True))


def test_a_row_alone_needs_the_run_that_it_starts_from(tmp_path):
  alone = order_of(tmp_path, "rkd", only=True)
  with pytest.raises(ValueError, match=r"Row rkd starts from .*base/seed0, which is not there"):
    lib.check(alone)
  write_run(alone, "base", 2)
  with pytest.raises(ValueError, match=r"base/seed0, which is at step 2 of 4: leave --only out"):
    lib.check(alone)
  write_run(order_of(tmp_path), "base", 4, seed=1)
  lib.check(order_of(tmp_path, "rkd", only=True, seeds=(1,)))


def test_a_row_alone_needs_the_runs_that_its_needs_are_made_from(tmp_path, monkeypatch):
  own = Row("own", "own", tiny_rows.__file__, "2", "base", after=("rkd",))
  recipe = dataclasses.replace(tiny_rows.RECIPE, rows=(*tiny_rows.RECIPE.rows, own))
  monkeypatch.setattr(tiny_rows, "RECIPE", recipe)
  order = order_of(tmp_path, "own", only=True)
  write_run(order, "base", 4, AP50_all=1.0)
  with pytest.raises(ValueError, match=r"own starts from .*rkd/seed0, which is not there"):
    lib.check(order)
  write_run(order, "rkd", 2, AP50_all=1.0)
  lib.check(order)


def test_a_run_whose_start_is_gone_is_not_gone_on_with(tmp_path):
  order = order_of(tmp_path)
  write_run(order, "rkd", 2, AP50_all=1.0)
  with pytest.raises(ValueError, match=r"rkd/seed0 has a checkpoint, but .*base/seed0.* not there"):
    lib.check(order)
  lib.check(order_of(tmp_path, "rkd", only=True))


def test_results_under_other_settings_are_refused(tmp_path):
  order = order_of(tmp_path)
  write_run(order, "base", 4, AP50_all=1.0)
  lib.check(order)
  with pytest.raises(ValueError, match=r"evaluated with model\.test\.score_threshold=0\.05, now"):
    lib.check(order_of(tmp_path, settings={"model.test.score_threshold": 0.5}))


def test_results_count_at_the_last_step_alone(tmp_path):
  order = order_of(tmp_path)
  base = order.recipe.row("base")
  folder = write_run(order, "base", 2, AP50_all=1.0)
  assert lib.evaluation(order, base, 0) is None
  (folder / "checkpoints" / "4").mkdir()
  assert lib.evaluation(order, base, 0) is None
  (folder / "evaluation.json").write_text('{"step": 4, "AP50_all": 2.0}')
  assert lib.evaluation(order, base, 0) == {"step": 4, "AP50_all": 2.0}
  (folder / "evaluation.json").write_text(
    '{"step": 4, "AP50_all": 2.0, "evaluated_with": {"model.test.detections": 7}}'
  )
  assert lib.evaluation(order, base, 0) is None
  # Converted weights are a run, too.
  write_run(order, "base", 0, seed=1, AP50_all=3.0)
  assert lib.evaluation(order, base, 1)["AP50_all"] == 3.0


def test_settings_of_a_fusion_that_is_off_are_free(tmp_path):
  order = order_of(tmp_path)
  file = write_run(order, "base", 4, AP50_all=1.0) / "config.json"
  content = json.loads(file.read_text())
  content["model"]["test"]["fusion"]["novel"] = 0.9
  file.write_text(json.dumps(content))
  lib.check(order)
  del content["model"]["test"]["fusion"]  # of an earlier version
  file.write_text(json.dumps(content))
  lib.check(order)
  content["model"]["test"]["fusion"] = {"kind": "crops"}
  file.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"evaluated with model\.test\.fusion"):
    lib.check(order)
