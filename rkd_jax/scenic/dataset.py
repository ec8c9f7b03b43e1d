"""The records of a config as a Scenic `Dataset`."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from scenic.dataset_lib.dataset_utils import Dataset

from rkd_jax.inputs.batching import eval_batches, train_batches
from rkd_jax.inputs.plan import place as place_of
from rkd_jax.records.sources import Source, open_source
from rkd_jax.structures import Batch
from rkd_jax.train.tasks import Task


def get_dataset(
  config: ml_collections.ConfigDict,
  task: Task,
  place: Callable[[Batch], Any],
  start_step: int = 0,
) -> Dataset:
  """Batches of training and of evaluation, and the usual facts about the data set.

  `train_iter` yields {'inputs': Batch, 'kind': 'box' or 'image'} for the steps from `start_step` to
  the last one, `valid_iter` {'inputs': Batch, 'batch_mask': valid}, every image once.  A batch is
  split over the devices as `place` does it (`Trainer.place`), along its leading axis, as Scenic's
  `shard_jit` does.  A step's batch follows from the seed and its number, so Scenic's random keys
  are not needed.

  Raises ValueError: see `open_source`.
  """
  plan = task.plan
  evaluated = open_source(*place_of(config.data, "eval"))
  kinds = dict.fromkeys(plan.schedule)
  canvas = np.max([canvas for kind in kinds for canvas in plan.specs[kind].canvases], axis=0)
  names = evaluated.class_names
  return Dataset(
    train_iter=_train(config, task, place, start_step),
    valid_iter=_valid(config, task, place, evaluated),
    meta_data={
      "input_shape": (-1, *map(int, canvas), 3),
      "input_dtype": np.uint8,
      "num_train_examples": sum(len(plan.sources[kind]) for kind in kinds),
      "num_eval_examples": len(evaluated),
      "num_classes": len(names),
      "class_names": names,
      "target_is_onehot": False,
      "vocabulary": task.constants,
    },
  )


def _train(
  config: ml_collections.ConfigDict, task: Task, place: Callable, start: int
) -> Iterator[dict[str, Any]]:
  batches = train_batches(
    task.plan,
    start,
    config.num_steps,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
    threads=config.data.threads,
    cache=config.data.cache,
    skip_bad_images=config.skip_bad_images,
    place=place,
  )
  for _, kind, batch in batches:
    yield {"inputs": batch, "kind": kind}


def _valid(
  config: ml_collections.ConfigDict, task: Task, place: Callable, source: Source
) -> Iterator[dict[str, Any]]:
  batches = eval_batches(
    source,
    task.plan.specs["eval"],
    threads=config.data.threads,
    skip_bad_images=config.skip_bad_images,
  )
  for batch in batches:
    yield {"inputs": place(batch), "batch_mask": batch.valid}
