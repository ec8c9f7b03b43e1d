import json

import pytest

from rkd_jax import demo
from rkd_jax.configs import demo as demo_config
from rkd_jax.files import json_checks

RUN = {"AP50_novel": 20.0, "AP50_base": 50.0, "AP50_all": 42.0, "per_class": {}}


def test_results_of_the_demo_have_one_entry_per_stage(tmp_path):
  rows = demo.write_results(str(tmp_path), {"base": RUN, "rkd": RUN})
  written = json.loads((tmp_path / "results.json").read_text())
  assert written["rkd"] == {"AP50_novel": 20.0, "AP50_base": 50.0, "AP50_all": 42.0}
  assert [row.method for row in rows] == ["base", "RKD"]


@pytest.mark.parametrize("stage", demo_config.FOLDERS)
def test_rows_with_other_pseudo_boxes_differ_from_their_control_in_these_alone(stage):
  stages = ("rkd_ils_weight_transfer", stage)
  control, config = (demo_config.get_config(f"{s},root=root,seed=2") for s in stages)
  found = json_checks.differences(control.to_dict(), config.to_dict())
  kind, more = ("box", "pseudo_labels") if stage == "retrieved_boxes" else ("image", "max_labels")
  assert set(found) == {"name", f"data.{kind}.teachers", f"data.{kind}.{more}"}
  assert config.data[kind].teachers == demo_config.folder("root", stage, 2)
  assert config.data.teachers == "root/teachers"


@pytest.mark.parametrize("stage", [row.name for row in demo.RECIPE.chosen() if row.trains])
def test_rows_that_are_compared_differ_only_in_what_they_are_named_after(stage):
  base, config = (demo.stage_config("root", s, 1) for s in ("base", stage))
  for key in ("backbone", "rpn", "roi", "box_head", "test"):
    assert config.model[key] == base.model[key]
  for key in ("temperature", "bias", "embedding_dim"):
    assert config.model.classifier[key] == base.model.classifier[key]
  assert (config.data.box.max_regions > 0) == ("rkd" in stage)
  assert ("image" in config.data.schedule) == ("ils" in stage)
  assert bool(config.model.classifier.weight_transfer) == ("weight_transfer" in stage)


def test_rows_with_ils_and_their_control_start_alike_and_train_equally_long():
  rows = [
    demo.stage_config("root", s, 1) for s in ("rkd_longer", "rkd_ils", "rkd_ils_weight_transfer")
  ]
  assert {c.init.checkpoint for c in rows} == {demo_config.workdir("root", "rkd", 1)}
  assert len({c.num_steps for c in rows}) == 1
  assert len({c.optimizer.learning_rate for c in rows}) == 1
