"""Where arrays live: batches are split over all devices, all else is on each of them."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh of one axis, `data`, over the devices, by default all of all processes."""
  if devices is None:
    # Those of a process are neighbours, so that it loads neighbouring images of a batch.
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
  return Mesh(np.asarray(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Of arrays with a leading axis of images."""
  return NamedSharding(mesh, PartitionSpec("data"))


def placed(tree, sharding: NamedSharding):
  """Abstract arrays of the same shapes and types, with that sharding."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def check_batch(mesh: Mesh, images: int) -> None:
  """Refuses a global batch that does not divide over the devices, with a ValueError."""
  if images % mesh.size:
    raise ValueError(
      f"A batch of {images} images does not divide over {mesh.size} devices: change the batch size."
    )


def shard_batch(mesh: Mesh, batch):
  """Host-local NumPy rows to global arrays, split along the batch axis.

  Every process passes its own equal part of the same global batch, in their order.

  Raises:
    ValueError: see `check_batch`.
  """
  check_batch(mesh, len(jax.tree.leaves(batch)[0]) * jax.process_count())
  return jax.make_array_from_process_local_data(split(mesh), batch)
