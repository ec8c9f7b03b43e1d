"""The recipes as data: what starts from what, which configs, the paper's numbers."""

import re
from pathlib import Path

import pytest

from rkd_jax import configs
from rkd_jax.recipe import recipes
from rkd_jax.recipe.needs import known as needs
from rkd_jax.recipe.order import Order

ALL = [(recipe, row) for recipe in recipes.RECIPES.values() for row in recipe.rows]


def _order(recipe, root="ROOT", seeds=(0,)):
  return Order(recipe, root, seeds, recipe.rows)


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda recipe: recipe.name)
def test_rows_come_after_those_that_they_start_from(recipe):
  names = [row.name for row in recipe.rows]
  assert len(set(names)) == len(names)
  for place, row in enumerate(recipe.rows):
    assert not row.parent or row.parent in names[:place]
    assert set(row.needs) <= needs.NEEDS[recipe.name].keys()


@pytest.mark.parametrize(
  "recipe, row", [(r, row) for r, row in ALL if row.trains], ids=lambda own: own.name
)
def test_rows_start_where_their_configs_say(recipe, row):
  order = _order(recipe)
  config = order.config(row, 0)
  plain = configs.load(f"{row.config}:{row.argument}{',' if row.argument else ''}root=ROOT")
  assert config.init.checkpoint == plain.init.checkpoint
  if row.parent:
    assert config.init.checkpoint == order.folder(recipe.row(row.parent), 0)
  # Where CLIP's weights are is said by the order.
  if not row.settings.keys() - {"model.test.fusion.clip"}:
    assert config.to_dict() == plain.to_dict()


@pytest.mark.parametrize("recipe, row", [(r, row) for r, row in ALL if row.paper and not row.group])
def test_the_papers_numbers_are_those_of_the_configs(recipe, row):
  assert len(row.paper) == len(recipe.columns.metrics)
  text = " ".join(Path(configs.FOLDER / f"{row.config}.py").read_text().split())
  published = re.search(r"Published \([^)]*\): ([\d. /]+\d)", text)[1]
  assert tuple(map(float, published.split(" / "))) == row.paper


def test_chosen_rows_bring_those_that_they_start_from():
  names = [row.name for row in recipes.LVIS.chosen(["rkd_ils_weight_transfer"])]
  assert names == ["base", "rkd", "rkd_ils_weight_transfer"]
  alone = recipes.LVIS.chosen(["rkd_ils_weight_transfer"], with_parents=False)
  assert [row.name for row in alone] == names[-1:]


def test_rows_of_groups_are_made_when_they_or_their_groups_are_named():
  assert "rkd_no_irm" not in [row.name for row in recipes.DEMO.chosen()]
  assert [row.name for row in recipes.DEMO.chosen(["rkd_no_irm"])] == ["base", "rkd_no_irm"]
  config = _order(recipes.DEMO).config(recipes.DEMO.row("rkd_no_irm"), 3)
  assert config.loss.irm.weight == 0.0 and config.loss.rkd.weight > 0
  assert config.seed == 3 and config.init.checkpoint == "ROOT/base/seed3"
  names = [row.name for row in recipes.DEMO.chosen(["losses"])]
  assert names == ["base", "rkd_no_irm", "rkd_no_l1", "rkd_paper_equations"]
  assert recipes.DEMO.chosen(["all"]) == list(recipes.DEMO.rows)


def test_rows_bring_those_whose_runs_their_needs_are_made_from():
  names = [row.name for row in recipes.DEMO.chosen(["refined"])]
  assert names == ["base", "rkd", "rkd_ils_weight_transfer", "refined"]


def test_settings_may_name_root_and_seed():
  config = _order(recipes.DEMO).config(recipes.DEMO.row("rkd_rpn"), 3)
  assert config.data.teachers == "ROOT/rpn_teachers/seed3"


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda recipe: recipe.name)
def test_tables_have_every_row_once_and_others_beside(recipe):
  assert {row.group for row in recipe.rows} <= {"", *recipe.groups}
  names = {row.name for row in recipe.rows}
  own = [name for table in recipe.tables(names).values() for name in table]
  beside = [name for group in recipe.groups.values() for name in group.beside]
  assert sorted(own) == sorted([*names, *beside])
  # A group of which nothing is there has no table.
  assert list(recipe.tables({"base"})) == ["Components"]


def test_rows_elsewhere_change_what_is_evaluated_on_and_nothing_else():
  order = _order(recipes.DEMO, root="R")
  row = recipes.DEMO.row("rkd_elsewhere")
  assert row not in recipes.DEMO.chosen()
  assert {*needs.needed(order, [row])} == {
    *("records", "clip", "elsewhere_records", "elsewhere_embeddings")
  }
  own, config = (order.config(recipes.DEMO.row(name), 1).to_dict() for name in ("rkd", row.name))
  assert config["data"].pop("name") == "shapes_ovd/elsewhere" != own["data"].pop("name")
  assert config.pop("class_embeddings") == "R/elsewhere.npz" != own.pop("class_embeddings")
  assert config["data"].pop("eval") != own["data"].pop("eval") and config == own


def test_unknown_names_are_told_the_nearest():
  with pytest.raises(ValueError, match=r"no recipe 'cocoa'; the nearest is 'coco'"):
    recipes.find("cocoa")
  with pytest.raises(
    ValueError, match=r"demo has no row or group 'rdk'; the nearest is 'rkd'. All: base"
  ):
    recipes.DEMO.chosen(["base", "rdk"])


@pytest.mark.parametrize("name", ["coco", "coco_json"])
def test_other_seeds_have_runs_of_their_own_and_the_same_data(name):
  order = _order(recipes.RECIPES[name], seeds=(0, 2))
  first, other = (order.config(order.recipe.row("rkd"), seed) for seed in (0, 2))
  assert (first.init.checkpoint, other.init.checkpoint) == ("ROOT/base", "ROOT/seed2/base")
  assert order.folder(order.recipe.row("rkd"), 2) == "ROOT/seed2/rkd"
  assert (first.seed, other.seed) == (0, 2)
  same = other.unlock()
  same.seed, same.init.checkpoint = first.seed, first.init.checkpoint
  assert same.to_dict() == first.to_dict()
