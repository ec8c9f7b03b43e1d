"""The table of what a run trains."""

import types

import numpy as np

from rkd_jax.configs import common
from rkd_jax.train.summary import summary


def _source(name, count, boxes):
  index = types.SimpleNamespace(num_boxes=np.full(count, boxes))

  class Source:
    base, novel = ("cat", "dog"), ("red fox",)

    def __len__(self):
      return count

  source = Source()
  source.name, source.index = name, index
  return source


def _plan(*schedule):
  sources = {"box": _source("own/train", 50, 3), "image": _source("other/train", 80, 0)}
  specs = {"box": types.SimpleNamespace(batch_size=2), "image": types.SimpleNamespace(batch_size=8)}
  return types.SimpleNamespace(schedule=schedule, sources=sources, specs=specs)


PARAMS = {"a": np.zeros((10, 100)), "b": np.zeros(500)}
FROZEN = {"a": False, "b": True}


def test_one_kind_of_batch_from_random_weights():
  config = common.detector()
  config.name, config.num_steps = "own data", 100
  assert summary(config, _plan("box"), PARAMS, FROZEN, 0).splitlines() == [
    "training    own data: 1,500 parameters, 500 of them frozen",
    "records     50 images with 150 boxes of own/train",
    "classes     2 base, 1 novel",
    "start       random weights",
    "steps       100, 2 images each, 4.0 epochs",
  ]


def test_image_steps_evaluation_and_a_run_that_goes_on():
  config = common.detector()
  config.name, config.num_steps = "own data, ils", 100
  config.init.checkpoint, config.evaluation.every, config.checkpoint.best = "r/base", 20, "AP50_all"
  config.evaluation.retention.name = "coco_ovd/plain"
  assert summary(config, _plan("box", "image"), PARAMS, FROZEN, 40).splitlines()[1:] == [
    "records     50 images with 150 boxes of own/train; 80 images of other/train, for image steps",
    "classes     2 base, 1 novel",
    "start       step 40 of this run, which began with r/base",
    "steps       100, 2 images each, 2.0 epochs; 8 images each, 5.0 epochs, for image steps",
    "evaluation  every 20 steps on validation, and on coco_ovd/plain/validation for what it could "
    "do before; the best AP50_all is kept",
  ]
