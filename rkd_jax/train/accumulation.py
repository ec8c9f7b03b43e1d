"""Gradient accumulation: a batch in parts, one after the other, for the gradient of the whole.

The losses are means over images and over groups of images, so means over parts that hold whole
groups are those of the batch.  Each device cuts its own images: none moves to another.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh, PartitionSpec

from rkd_jax.machine.target import current


def parts_of(config: ml_collections.ConfigDict, mesh: Mesh, kind: str, images: int) -> int:
  """The parts that a batch of so many images is taken in: `gradient_accumulation_steps`.

  Raises:
    ValueError: the parts would not give the gradient of the batch; names the keys to change.
  """
  parts, key = config.get("gradient_accumulation_steps", 1), "gradient_accumulation_steps"
  if parts == 1:
    return 1
  if parts < 1:
    raise ValueError(f"{key} is {parts}; expected 1, for whole batches, or more.")
  if config.task != "detector":
    raise ValueError(
      f"{key}={parts}: the loss of task {config.task!r} contrasts each image with all others of "
      "its batch, which parts do not hold; set it to 1."
    )
  if config.model.padding.to == "batch":
    raise ValueError(
      f"{key}={parts}: with model.padding.to='batch' an image depends on the largest of its batch, "
      "which another part may hold; set either to its default."
    )
  if config.loss.get("contrastive", {}).get("weight"):
    raise ValueError(
      f"{key}={parts}: loss.contrastive contrasts each region with all others of its batch, which "
      f"parts do not hold; set {key}=1 or loss.contrastive.weight=0."
    )
  devices, group = mesh.shape["data"], min(config.loss.images_per_group[kind], images)
  rows, rest = divmod(images, parts * devices)
  if rest:
    raise ValueError(
      f"A batch of {images} images (data.{kind}.batch_size) does not divide into {parts} parts "
      f"({key}) on {devices} devices: change one of them."
    )
  if rows % group:
    raise ValueError(
      f"{key}={parts} cuts groups of images: a device takes {rows} of data.{kind} at a time, and "
      f"groups have {group} (loss.images_per_group.{kind}). Take fewer parts, fewer devices or a "
      f"larger data.{kind}.batch_size."
    )
  return parts


def mean_over_parts(function: Callable, parts: int, rows) -> tuple:
  """The mean of `function(rows)`, a tree of floats, over the parts of `rows` [b, ...]."""
  if parts == 1:
    return function(rows)
  cut = _in_parts(rows, parts)
  shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], cut))

  def add(total, part):
    return jax.tree.map(jnp.add, total, function(part)), None

  start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(add, start, cut)
  return jax.tree.map(lambda x: x / parts, total)


def _in_parts(rows, parts: int):
  """Arrays [b, ...] as [parts, b / parts, ...]; of each device's own rows, its parts."""

  def cut(rows):
    return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), rows)

  mesh = current().mesh
  if mesh is None or mesh.shape["data"] == 1:
    return cut(rows)
  before, after = PartitionSpec("data"), PartitionSpec(None, "data")
  return jax.shard_map(cut, mesh=mesh, in_specs=before, out_specs=after, check_vma=False)(rows)
