"""Configs as Scenic reads them."""

import pytest

from rkd_jax.configs import demo


def test_scenics_seed_is_the_seed(scenic):
  from rkd_jax.scenic.config import get_config

  config = get_config("demo:rkd")
  assert config.rng_seed == 0 and config.name == "rkd"
  config.rng_seed = 3
  assert config.seed == 3


def test_what_scenic_adds_is_taken_away(scenic):
  from rkd_jax.scenic.config import get_config, own_settings

  assert own_settings(get_config("demo:rkd")).to_dict() == demo.get_config("rkd").to_dict()


def test_a_name_that_is_not_there_is_said(scenic):
  from rkd_jax.scenic.config import get_config

  with pytest.raises(ValueError, match="no config has this name"):
    get_config("coco/rdk")


def test_without_scenic_the_message_says_how_to_get_it(nothing_imported):
  with pytest.raises(ImportError, match=r"rkd_jax\.scenic needs Google's Scenic.*SCENIC_PATH="):
    __import__("rkd_jax.scenic")
