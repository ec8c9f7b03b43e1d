"""Where arrays live: one (data, model) mesh, and rules from parameter path to axes."""

import functools
import re
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rkd_jax.runs.state import parameter_paths

# (regular expression on the path, axis names).  First match wins; else replicated.
RULES: tuple[tuple[str, tuple], ...] = (
  # The large matrices: the first fully connected layer of the box head, and vocabulary rows.
  (r".*box_head/fc1/kernel", (None, "model")),
  (r".*embeddings", ("model", None)),
)


def make_mesh(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A mesh over the devices, by default all; `data` of -1 takes what `model` leaves.

  Raises:
    ValueError: the axes do not multiply to the number of devices.
  """
  if devices is None:
    # Those of a process are neighbours, so that it loads neighbouring images of a batch.
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
  model = config.model
  data = config.data if config.data != -1 else len(devices) // model
  if data * model != len(devices):
    raise ValueError(
      f"mesh (data={config.data}, model={model}) does not cover {len(devices)} devices; "
      "set config.mesh.data=-1 and config.mesh.model to a divisor of the device count."
    )
  return Mesh(np.asarray(devices).reshape(data, model), ("data", "model"))


def shardings(mesh: Mesh, tree):
  """A NamedSharding per leaf of a tree of (abstract) arrays, by path.

  An axis that does not divide evenly stays replicated, so small models run on any mesh.
  """

  def place(path: str, leaf) -> NamedSharding:
    axes = next((axes for pattern, axes in RULES if re.fullmatch(pattern, path)), ())
    fits = len(axes) == leaf.ndim and all(
      axis is None or leaf.shape[i] % mesh.shape[axis] == 0 for i, axis in enumerate(axes)
    )
    return NamedSharding(mesh, PartitionSpec(*axes) if fits else PartitionSpec())

  return jax.tree.map(place, parameter_paths(tree), tree)


def with_shardings(tree, shardings):
  """Abstract arrays of the same shapes and types, placed; one sharding may stand for all."""
  if isinstance(shardings, NamedSharding):
    shardings = jax.tree.map(lambda _: shardings, tree)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


@functools.cache
def part_of_batch(mesh: Mesh) -> tuple[int, int]:
  """The equal part of each batch that this process loads, as (index, count).

  Processes that share what is along `model` load the same images.

  Raises:
    ValueError: their devices hold parts that overlap otherwise.
  """
  rows = mesh.devices.reshape(mesh.shape["data"], -1)
  here = jax.process_index()
  own = [i for i, row in enumerate(rows) if any(device.process_index == here for device in row)]
  if len(own) > 1 and any(device.process_index != here for device in rows[own].flat):
    raise ValueError(
      f"config.mesh.model={mesh.shape['model']} does not fit processes of "
      f"{jax.local_device_count()} devices: one must be a multiple of the other."
    )
  return own[0] // len(own), len(rows) // len(own)


def check_batch(mesh: Mesh, images: int) -> None:
  """Refuses a global batch that does not divide over the `data` axis, with a ValueError."""
  if images % mesh.shape["data"]:
    raise ValueError(
      f"A batch of {images} images does not divide over {mesh.shape['data']} devices: change the "
      "batch size, or config.mesh."
    )


def shard_batch(mesh: Mesh, batch):
  """Host-local NumPy rows to global arrays, split over `data` along the batch axis.

  Every process passes its own part of the same global batch, that of `part_of_batch`.

  Raises:
    ValueError: see `check_batch`.
  """
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  check_batch(mesh, len(jax.tree.leaves(batch)[0]) * part_of_batch(mesh)[1])
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
