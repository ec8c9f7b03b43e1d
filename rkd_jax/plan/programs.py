"""The programs of a config, lowered for devices that need not be there."""

import functools
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rkd_jax.benchmark import synthetic
from rkd_jax.machine.target import Target, compiled_for, lower_for
from rkd_jax.models.detector import rcnn
from rkd_jax.train.sharding import check_batch, make_mesh, placed, replicated, split
from rkd_jax.train.step import detector_loss, detector_memory
from rkd_jax.train.tasks import Task
from rkd_jax.train.train import Trainer

PROGRAMS = ("box", "image", "inference", "create")


def programs_of(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Those of `PROGRAMS` that a config needs."""
  return (*dict.fromkeys(config.data.schedule), "inference", "create")


def lower(
  config: ml_collections.ConfigDict,
  program: str,
  devices: list[jax.Device],
  batch_size: int = 0,
  canvas: tuple[int, int] | None = None,
  classes: int = 0,
) -> tuple[jax.stages.Lowered, dict[str, int | list[int]]]:
  """A program of a config's full size, and the batch, canvas and classes that it is for.

  'box' and 'image' are a training step on a batch of that kind, 'inference' detects in a batch
  shared by all devices, 'create' makes the state to start from.

  Args:
    batch_size: images of all devices together; 0 is the config's own, one a device for inference.
    canvas: height and width; None is the config's own.
    classes: rows of the vocabulary; 0 is as many as COCO or LVIS have, by the config's loss.

  Raises:
    ValueError: the batch does not divide over the devices.
  """
  mesh = make_mesh(devices)
  rng = np.random.default_rng(0)
  vocabulary = synthetic.vocabulary(config, classes, rng)
  classes = len(vocabulary.embeddings)
  model = rcnn.build(config)
  shape = {"classes": classes}
  data = config.data[{"inference": "eval", "create": "box"}.get(program, program)]
  canvas = canvas or _canvas(data)
  if program != "create":
    size = batch_size or (len(devices) if program == "inference" else data.batch_size)
    check_batch(mesh, size)
    shape |= {"batch": size, "canvas": list(canvas)}
    one = synthetic.batch(config, program, 1, canvas, classes, rng)
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), one)
    batch = placed(rows, split(mesh))
  if program == "inference":
    params = rcnn.abstract_params(config)
    rows = jax.ShapeDtypeStruct(vocabulary.embeddings.shape, jnp.float32)
    detect = compiled_for(
      lambda params, *args: model.apply({"params": params}, *args, method=model.detect),
      Target(devices[0].platform, mesh.size, mesh, config.model.get("precision", "default")),
    )
    traced = jax.jit(detect).trace(
      placed(params, replicated(mesh)),
      batch,
      placed(rows, replicated(mesh)),
    )
    return lower_for(traced, devices[0]), shape

  def init(key):
    return model.init(key, *rcnn.dummy_inputs(config))["params"], {}

  # The plan of the batches is for those who read them.
  memory = functools.partial(detector_memory, config)
  task = Task(init, detector_loss(model, config.loss), vocabulary, plan=None, memory=memory)
  trainer = Trainer(config, task, devices)
  if program == "create":
    return trainer.lower_create(), shape
  return trainer.lower(batch, program), shape


def _canvas(data) -> tuple[int, int]:
  """Of lying images: a canvas for both ways is cut to what a batch of one way needs."""
  height, width = data.canvas
  if height == width and "short_sides" in data:
    height = min(height, math.ceil(max(data.short_sides) / 64) * 64)
  return height, width
