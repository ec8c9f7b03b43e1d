"""One training step, as arithmetic: loss, gradient, update.

The training loop and the benchmark both run it; nothing of the data stack is imported here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from rkd_jax.losses import infonce
from rkd_jax.losses import total as losses_lib
from rkd_jax.models.detector.rcnn import RCNN
from rkd_jax.runs.state import TrainState
from rkd_jax.structures import Batch, Vocabulary
from rkd_jax.train.accumulation import mean_over_parts

# (params, carried, constants, batch, keys, kind) -> (loss, ({name: scalar}, carried)); `carried` is
# that of the state, and `keys` are those of `image_keys`.
Loss = Callable[..., tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
  """Scalars of a step as one array [n], which the host reads in one go."""

  names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
  values: jax.Array

  def read(self) -> dict[str, float]:
    # Not by jax.device_get, which takes as long again for its tree.
    return dict(zip(self.names, np.asarray(self.values).tolist(), strict=True))


def image_keys(key: jax.Array, images: int) -> tuple[jax.Array, jax.Array]:
  """Two keys of each image, [b] and [b]: for its anchors and for its RoIs.

  Those of a part of the batch are rows of those of the whole.
  """
  rpn_key, roi_key = jax.random.split(key)
  return jax.random.split(rpn_key, images), jax.random.split(roi_key, images)


def detector_loss(model: RCNN, config: ml_collections.ConfigDict) -> Loss:
  """The loss of a box batch (eq. 3) or of an image batch (eq. 5), by the static `kind`.

  `config` is `config.loss`; the constants are the `Vocabulary`.  Regions that are distilled enter
  the queue of `detector_memory`, if there is one, after the step whose loss they are part of.
  """

  def loss(params, carried, vocabulary: Vocabulary, batch: Batch, keys, kind: str):
    variables, queue, regions = {"params": params}, carried.get("queue"), batch.regions
    if kind == "box":
      rpn_keys, roi_keys = keys
      outputs = model.apply(
        variables, batch, vocabulary.embeddings, roi_keys, method=model.box_step
      )
      losses = losses_lib.box_losses(outputs, batch, vocabulary, rpn_keys, config, queue)
    else:
      embeddings = vocabulary.image_embeddings
      embeddings = vocabulary.embeddings if embeddings is None else embeddings
      outputs = model.apply(variables, batch, embeddings, method=model.image_step)
      losses = losses_lib.image_losses(outputs, batch, config, queue)
    if queue is not None and regions is not None and (kind == "box" or config.rkd.on_image_batches):
      rows = losses_lib.flat(regions.embeddings), losses_lib.flat(regions.valid)
      carried = {**carried, "queue": infonce.enqueue(queue, *rows)}
    return losses_lib.total(losses), (losses, carried)

  return loss


def detector_memory(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What the loss of a config remembers, before the first step: nothing, or an empty 'queue'."""
  contrastive = config.loss.get("contrastive", ml_collections.ConfigDict())
  if not (contrastive.get("weight") and contrastive.queue):
    return {}
  width = config.model.classifier.embedding_dim
  return {"queue": infonce.empty_queue(contrastive.queue, width)}


def make_gradient(loss: Loss, frozen) -> Callable:
  """A function like `loss` that returns ((loss, (metrics, carried)), gradient).

  `frozen` is the mask of `optimizer.frozen_mask`.
  """

  def gradient(params, carried, constants, batch, keys, kind: str):
    def objective(params):
      # No gradient is computed for frozen parameters, nor below the last of them.
      params = jax.tree.map(lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, frozen)
      return loss(params, carried, constants, batch, keys, kind)

    return jax.value_and_grad(objective, has_aux=True)(params)

  return gradient


def make_step(
  loss: Loss,
  optimizer: optax.GradientTransformation,
  frozen,
  parts_of: Callable[[str, int], int] = lambda kind, images: 1,
  skip: bool = False,
) -> Callable:
  """(state, constants, batch, seed_key, kind) -> (state, `Metrics`); `kind` is static.

  The random numbers of a step depend on `seed_key` and the step's number only.  A batch of a kind
  and size is taken in `parts_of(kind, images)` parts, which give the update of the whole.

  A step whose metrics are not all finite changes nothing but the number of steps.  That becomes
  -1 - step, after which no step changes anything: who reads the metrics later than the next step
  began still has the state before the bad one.  With `skip` training goes on with the next step.
  """
  gradient_of = make_gradient(loss, frozen)

  def step(state: TrainState, constants, batch, seed_key, kind: str):
    images = len(jax.tree.leaves(batch)[0])
    keys = image_keys(jax.random.fold_in(seed_key, state.step), images)

    def of_part(rows):
      return gradient_of(state.params, state.carried, constants, *rows, kind)

    (loss, (metrics, carried)), gradient = mean_over_parts(
      of_part, parts_of(kind, images), (batch, keys)
    )
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p + u, state.params, updates)
    # Not finite where the gradient or the learning rate is not, though this step's loss still is.
    metrics = {"loss": loss, **metrics, "update_norm": optax.tree.norm(updates)}
    values = jnp.stack(list(metrics.values()))
    good = jnp.isfinite(values).all()
    following = state.step + 1
    if not skip:
      stopped = state.step < 0
      following = jnp.where(stopped, state.step, jnp.where(good, following, -following))
      good &= ~stopped
    model_state = {name: carried[name] for name in state.model_state}
    memory = {name: carried[name] for name in state.memory}
    updated = TrainState(following, params, model_state, opt_state, memory)
    before = dataclasses.replace(state, step=following)
    state = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, before)
    return state, Metrics(tuple(metrics), values)

  return step
