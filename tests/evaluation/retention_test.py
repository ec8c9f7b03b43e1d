"""Whether old classes survive, on invented results."""

import pytest

from rkd_jax.configs import common
from rkd_jax.evaluation import retention
from rkd_jax.runs import evaluations


@pytest.fixture
def config():
  c = common.detector()
  c.class_embeddings, c.image_counts = "own.npz", "counts.json"
  c.data.dir, c.data.name = "own", "coco_json/plain"
  c.evaluation.retention.update(name="coco_ovd/plain", split="minival", share=0.25)
  return c.lock()


def test_the_old_classes_have_records_of_their_own_and_the_network_of_the_run(config):
  config.evaluation.retention.update(dir="old", class_embeddings="old.npz", protocol="open_images")
  old = retention.config_of(config)
  assert (old.data.dir, old.data.name, old.data.eval.split) == ("old", "coco_ovd/plain", "minival")
  assert (old.class_embeddings, old.image_counts) == ("old.npz", "")
  assert old.evaluation.protocol == "open_images" and old.model == config.model
  assert config.data.name == "coco_json/plain" and config.data.eval.split == "validation"


def test_places_that_are_not_given_are_those_of_the_run(config):
  old = retention.config_of(config)
  assert (old.data.dir, old.class_embeddings) == ("own", "own.npz")


def test_without_a_name_there_are_none(config):
  config.evaluation.retention.name = ""
  assert retention.config_of(config) is None
  assert retention.config_of(common.clip()) is None


def _record_start(workdir, **values):
  old = {"records": "coco_ovd/plain/minival", **values}
  evaluations.record(workdir, 0, {"step": 0, "retention": old})


def test_results_have_the_change_since_the_start(config, tmp_path):
  found = {
    "step": 4,
    "AP50_all": 35.0,
    "AP50_novel": None,
    "AP_all": 20.0,
    "per_class": {"cat": {}},
  }
  _record_start(tmp_path, AP50_all=40.0, AP50_novel=10.0, AP_all=None)
  assert retention.compared(config, tmp_path, 4, found) == {
    "records": "coco_ovd/plain/minival",
    "AP50_all": 35.0,
    "AP50_novel": None,
    "AP_all": 20.0,
    "AP50_all_change": -5.0,
  }


@pytest.mark.parametrize("value, told", [(30.0, False), (29.9, True)])
def test_a_fall_by_more_than_the_share_is_told(value, told, config, tmp_path, caplog):
  _record_start(tmp_path, AP50_all=40.0)
  retention.compared(config, tmp_path, 4, {"AP50_all": value})
  warned = "fell from AP50_all 40.0 to 29.9 at step 4, by more than 25 %: lower optimizer." in (
    caplog.text
  )
  assert warned == told


def test_the_start_and_other_records_are_compared_with_nothing(config, tmp_path):
  _record_start(tmp_path, AP50_all=40.0)
  assert "AP50_all_change" not in retention.compared(config, tmp_path, 0, {"AP50_all": 1.0})
  config.evaluation.retention.split = "validation"
  assert "AP50_all_change" not in retention.compared(config, tmp_path, 4, {"AP50_all": 1.0})


def test_a_metric_that_the_protocol_does_not_give_is_an_error(config, tmp_path):
  with pytest.raises(ValueError, match=r"metric is 'AP50_all'; the protocol 'coco' gives box_AP\."):
    retention.compared(config, tmp_path, 0, {"step": 0, "box_AP": 1.0})
