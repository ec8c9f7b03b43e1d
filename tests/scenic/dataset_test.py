"""Our records as a data set of Scenic."""

import jax
import numpy as np
import pytest
import tiny

from rkd_jax.train.tasks import detector_task
from rkd_jax.train.train import Trainer

pytestmark = pytest.mark.door


def test_the_data_set_has_scenics_facts_and_every_image_once(scenic, root):
  from rkd_jax.scenic.dataset import get_dataset

  config = tiny.get_config(str(root))
  task = detector_task(config)
  mesh_place = Trainer(config, task).place
  dataset = get_dataset(config, task, mesh_place)
  facts = dataset.meta_data
  assert facts["input_shape"] == (-1, 64, 64, 3) and facts["input_dtype"] == np.uint8
  assert facts["num_train_examples"] == 24 and facts["num_eval_examples"] == 8
  assert facts["num_classes"] == len(facts["class_names"]) == len(facts["vocabulary"].embeddings)
  (batch,) = dataset.valid_iter
  assert batch["batch_mask"].all() and len(batch["inputs"].images) == 8
  assert len(batch["inputs"].images.sharding.device_set) == jax.device_count()
  kinds = [batch["kind"] for batch in dataset.train_iter]
  assert kinds == [task.plan.sampler.kind(step) for step in range(config.num_steps)]
