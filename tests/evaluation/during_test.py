"""What evaluation during training refuses before the first step."""

import pytest
import tiny_coco

from rkd_jax.evaluation.during import TrainingEvaluator


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("own")
  tiny_coco.build_data(root)
  return root


@pytest.fixture
def config(root):
  c = tiny_coco.get_config(str(root))
  c.evaluation.every = 5
  return c


def test_a_split_that_is_not_there_is_said_with_what_to_do(config, tmp_path):
  config.data.eval.split = "test"
  with pytest.raises(
    ValueError,
    match=r"evaluated every 5 steps, but data set .* has no split 'test'; it has train, validation"
    r"\. Change config\.data \(--config\.data\.eval\.split=train, say\), or set .*every=0\.",
  ):
    TrainingEvaluator(config, str(tmp_path))


def test_old_classes_that_are_not_there_are_said(config, tmp_path):
  config.evaluation.retention.name = "coco_ovd/plain"
  with pytest.raises(ValueError, match=r"no data set 'coco_ovd/plain' .* config\.evaluation\.ret"):
    TrainingEvaluator(config, str(tmp_path))
