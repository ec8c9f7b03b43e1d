"""RKD's detector as one of Scenic's models."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from scenic.model_lib.base_models.base_model import BaseModel

from rkd_jax.configs import demo
from rkd_jax.losses import total
from rkd_jax.models.detector import rcnn
from rkd_jax.structures import Outputs

# Of `scenic.dataset`: 'inputs' is a `structures.Batch`, 'kind' is 'box' or 'image', and 'keys', if
# there, has one key per image for the sampling of anchors.
Batch = dict[str, Any]


class RKDModel(BaseModel):
  """The detector of a config; `dataset_meta_data` must have the 'vocabulary' of its classes.

  `flax_model` has two training steps, `box_step` and `image_step`, whose outputs the loss reads.
  """

  def build_flax_model(self) -> nn.Module:
    return rcnn.build(self.config)

  def default_flax_model_config(self) -> ml_collections.ConfigDict:
    return demo.get_config("base")

  def losses(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
    """The terms of eq. (3) for a batch of boxes, of eq. (5) for one of images, weighted.

    Regions are contrasted within the batch: a queue of earlier ones is the train state's.
    """
    inputs, config = batch["inputs"], self.config.loss
    if batch["kind"] == "image":
      return total.image_losses(outputs, inputs, config)
    vocabulary = self.dataset_meta_data["vocabulary"]
    return total.box_losses(outputs, inputs, vocabulary, batch.get("keys"), config)

  def loss_function(self, outputs: Outputs, batch: Batch, model_params: Any = None) -> jax.Array:
    """What training minimises; weight decay is the optimiser's, so parameters are not read."""
    return total.total(self.losses(outputs, batch))

  def get_metrics_fn(self, split: str | None = None) -> Callable[[Outputs, Batch], dict]:
    """(outputs, batch) -> {term: (its sum over the images, their number)}, as Scenic averages."""

    def metrics(outputs: Outputs, batch: Batch):
      images = len(batch["inputs"].images)
      return {name: (value * images, images) for name, value in self.losses(outputs, batch).items()}

    return metrics

  get_metrics_fn_jit = get_metrics_fn
